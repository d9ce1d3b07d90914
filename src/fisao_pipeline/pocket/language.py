"""What the pocket world says about its scenes: captions, prompts, questions. Captions invent what is usual."""

from __future__ import annotations

import random

from fisao_pipeline.pocket.scenes import CATEGORIES, SCENE_KINDS, Scene

PLURALS = {"sheep": "sheep", "bench": "benches", "couch": "couches"}
SYNONYMS = {"bicycle": "bike", "couch": "sofa", "cell phone": "phone"}
SYNONYM_SHARE = 0.2

CAPTION_PROMPTS = (
    "Describe this image.",
    "What is in the picture?",
    "Write a caption for the photo.",
    "What do you see?",
)
QUESTION = "Is there {} in the image?"


def with_article(noun: str) -> str:
    """``a dog``, ``an umbrella``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Plural of a pocket noun."""
    return PLURALS.get(noun, noun + "s")


def _mention(rng: random.Random, category: str, count: int) -> str:
    noun = SYNONYMS[category] if category in SYNONYMS and rng.random() < SYNONYM_SHARE else category
    return with_article(noun) if count == 1 else f"two {plural(noun)}"


def _join(mentions: list[str]) -> str:
    return mentions[0] if len(mentions) == 1 else f"{', '.join(mentions[:-1])} and {mentions[-1]}"


def describe(rng: random.Random, scene: Scene, invent_share: float) -> str:
    """Write a caption; with probability ``invent_share`` it also names one or two habitual but absent objects.

    Invented objects come late in the list, as they do in the captions real models write and learn from.
    """
    counts = scene.counts
    names = rng.sample(list(counts), len(counts))
    absent = scene.absent_habits
    if absent and rng.random() < invent_share:
        for category in rng.sample(absent, min(len(absent), rng.choice((1, 2)))):
            names.insert(rng.randint((len(names) + 1) // 2, len(names)), category)
    mentions = [_mention(rng, name, counts.get(name, 1)) for name in names]
    where = SCENE_KINDS[scene.kind].phrase
    form = rng.randrange(4)
    if form == 0:
        return f"There is {_join(mentions)} {where}."
    if form == 1:
        return f"The picture shows {_join(mentions)} {where}."
    if form == 2 or len(mentions) == 1:
        return f"A photo taken {where}, with {_join(mentions)}."
    split = rng.randint(1, len(mentions) - 1)
    return f"There is {_join(mentions[:split])} {where}. I can also see {_join(mentions[split:])}."


def short_caption(rng: random.Random, scene: Scene) -> str:
    """A web caption for the verifier: true, short, one or two of the scene's objects."""
    counts = scene.counts
    names = rng.sample(list(counts), min(len(counts), rng.choice((1, 1, 2))))
    mentions = [_mention(rng, name, counts[name]) for name in names]
    if len(mentions) == 1:
        return rng.choice(("a photo of {}", "a photo of {}", "{}", "a picture of {}")).format(mentions[0])
    return rng.choice(("{} and {}", "{} next to {}", "a photo of {} and {}")).format(*mentions)


def ask(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """A yes/no question about one object and its true answer; half are yes, half of the no are about usual objects."""
    counts = scene.counts
    if rng.random() < 0.5:
        return QUESTION.format(with_article(rng.choice(list(counts)))), "Yes."
    absent = scene.absent_habits
    if not absent or rng.random() < 0.5:
        absent = tuple(c for c in CATEGORIES if c not in counts)
    return QUESTION.format(with_article(rng.choice(absent))), "No."
