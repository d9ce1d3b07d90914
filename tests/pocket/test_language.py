"""Captions say what is there, and invent what usually would be; questions have true answers."""

import random
import re

import pytest

from fisao_pipeline.method.object_spans import ObjectVocabulary, find_mentions
from fisao_pipeline.pocket.language import QUESTION, SYNONYMS, ask, describe, plural, short_caption, with_article
from fisao_pipeline.pocket.scenes import CATEGORIES, SCENE_KINDS, draw_scenes

VOCABULARY = ObjectVocabulary.load("coco")
SCENES = draw_scenes(300, 8)


def named(text: str) -> list[str]:
    return [mention.category for mention in find_mentions(text, VOCABULARY)]


def test_a_caption_that_invents_nothing_is_true_and_complete():
    rng = random.Random(0)
    for scene in SCENES:
        caption = describe(rng, scene, invent_share=0.0)
        assert sorted(named(caption)) == sorted(scene.counts), caption
        assert SCENE_KINDS[scene.kind].phrase in caption


def test_a_caption_that_invents_names_absent_habits_and_all_that_is_there():
    rng = random.Random(0)
    for scene in SCENES:
        categories = named(describe(rng, scene, invent_share=1.0))
        invented = [c for c in categories if c not in scene.counts]
        assert set(scene.counts) <= set(categories)
        assert set(invented) <= set(scene.absent_habits)
        assert 1 <= len(invented) <= 2 or not scene.absent_habits
        assert len(set(categories)) == len(categories)


def test_what_is_invented_comes_late():
    rng = random.Random(0)
    for scene in SCENES:
        categories = named(describe(rng, scene, invent_share=1.0))
        true = len(scene.counts)
        first = next((i for i, c in enumerate(categories) if c not in scene.counts), len(categories))
        assert first >= true // 2


@pytest.mark.parametrize("share", [0.2, 0.75])
def test_the_share_of_captions_that_invent(share):
    rng = random.Random(1)
    scenes = [scene for scene in SCENES if scene.absent_habits] * 3
    inventing = sum(bool(set(named(describe(rng, scene, share))) - set(scene.counts)) for scene in scenes)
    assert inventing / len(scenes) == pytest.approx(share, abs=0.06)


def test_counts_are_said():
    rng = random.Random(0)
    for scene in SCENES[:100]:
        caption = describe(rng, scene, 0.0)
        for category, count in scene.counts.items():
            nouns = [category, SYNONYMS.get(category, category)]
            wanted = [f"two {plural(noun)}" if count == 2 else with_article(noun) for noun in nouns]
            assert any(phrase in caption for phrase in wanted), caption


def test_short_captions_are_true_and_name_one_or_two():
    rng = random.Random(0)
    for scene in SCENES:
        categories = named(short_caption(rng, scene))
        assert 1 <= len(categories) <= 2
        assert set(categories) <= set(scene.counts)


def test_answers_are_true():
    rng = random.Random(0)
    answers = []
    for scene in SCENES * 3:
        question, answer = ask(rng, scene)
        (category,) = named(question)
        assert (category in scene.counts) == (answer == "Yes."), (question, answer)
        assert re.fullmatch(QUESTION.replace("?", r"\?").format("an? .+"), question)
        answers.append(answer)
    assert answers.count("Yes.") / len(answers) == pytest.approx(0.5, abs=0.06)


def test_many_no_questions_are_about_usual_objects():
    rng = random.Random(0)
    no = [(scene, *ask(rng, scene)) for scene in SCENES * 3]
    no = [(scene, named(question)[0]) for scene, question, answer in no if answer == "No."]
    usual = sum(category in SCENE_KINDS[scene.kind].habits for scene, category in no)
    assert usual / len(no) > 0.45


def test_every_noun_in_every_form_is_in_the_vocabulary():
    for category in CATEGORIES:
        for noun in (category, SYNONYMS.get(category, category)):
            for form in (noun, plural(noun)):
                assert named(f"There is {form} here.") == [category], form


def test_the_same_seed_says_the_same():
    first, again = ([describe(random.Random(4), scene, 0.5) for scene in SCENES[:20]] for _ in range(2))
    assert first == again


def test_articles():
    assert [with_article(noun) for noun in ("dog", "umbrella")] == ["a dog", "an umbrella"]
