"""POPE: yes/no questions about objects (Li et al., EMNLP 2023)."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.ratios import RatioMetrics, ratios_of_sums
from fisao_pipeline.benchmarks.scores import Scores

Strategy = Literal["random", "popular", "adversarial"]
AnswerParsing = Literal["reference", "strict"]
STRATEGIES: tuple[Strategy, ...] = ("random", "popular", "adversarial")
TEMPLATE = "Is there {article} {object} in the image?"

POPE_METRICS: RatioMetrics = {
    "accuracy": ("correct", "questions"),
    "precision": ("true_yes", "said_yes"),
    "recall": ("true_yes", "answer_yes"),
    "f1": ("f1_numerator", "f1_denominator"),
    "yes_ratio": ("said_yes", "questions"),
    "unparsed": ("unparsed", "questions"),
}
_COUNTS = (
    "questions",
    "correct",
    "true_yes",
    "said_yes",
    "answer_yes",
    "f1_numerator",
    "f1_denominator",
    "unparsed",
)


@dataclass(frozen=True)
class PopeQuestion:
    """One question.

    Attributes:
        image_id: The image.
        strategy: How its negatives were drawn.
        object: The object asked for.
        prompt: The question.
        answer: ``"yes"`` or ``"no"``.
    """

    image_id: str
    strategy: Strategy
    object: str
    prompt: str
    answer: str


def build_questions(
    objects: Mapping[str, Sequence[str]],
    strategy: Strategy,
    *,
    n_images: int = 500,
    n_positives: int = 3,
    template: str = TEMPLATE,
    seed: int = 0,
) -> list[PopeQuestion]:
    """Ask each sampled image for its first objects and, after each, for one that is not there.

    Images with at least ``n_positives`` distinct objects are sampled; the pool of negatives is what those images hold.
    Negatives: ``random`` draws uniformly from the pool; ``popular`` takes the object of most sampled images;
    ``adversarial`` the one that most often shares an image with the positive just asked for. Ties go to what was met
    first. Never an object of the image nor one already asked for; when no such object is left in the ranking, a random
    one of the pool. One seed gives the same images for every strategy.

    Args:
        objects: Image id to its annotated objects in their order.
        strategy: How negatives are drawn.
        n_images: Number of images [500 in the paper].
        n_positives: Positives, and negatives, per image [3].
        template: Question with ``{article}`` and ``{object}``.
        seed: Seed of images and random negatives.

    Raises:
        ValueError: Too few images, an unknown strategy, or an image for which the pool holds too few other objects.

    Source: AoiDragon/POPE, main.py and utils.py. Its random numbers come from an unseeded generator, so its very
    questions cannot be reproduced; its question texts replace "a" by "an" in the whole template, ours only the article.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    sampled = _sample_images(objects, n_images, n_positives, seed)
    frequency = Counter(name for names in sampled.values() for name in names)
    neighbours = _neighbours(sampled)
    rng = random.Random(f"{seed}/{strategy}")
    questions = []
    for image_id, names in sampled.items():
        asked = set(names)
        for positive in names[:n_positives]:
            ranking = {
                "random": (),
                "popular": (name for name, _ in frequency.most_common()),
                "adversarial": (name for name, _ in neighbours[positive].most_common()),
            }[strategy]
            negative = _negative(ranking, list(frequency), asked, rng, image_id)
            asked.add(negative)
            for name, answer in ((positive, "yes"), (negative, "no")):
                prompt = template.format(article=_article(name), object=name)
                questions.append(PopeQuestion(image_id, strategy, name, prompt, answer))
    return questions


def _sample_images(
    objects: Mapping[str, Sequence[str]], n_images: int, n_positives: int, seed: int
) -> dict[str, list[str]]:
    if n_images < 1 or n_positives < 1:
        raise ValueError(f"n_images and n_positives must be at least 1, not {n_images} and {n_positives}")
    distinct = {image_id: list(dict.fromkeys(names)) for image_id, names in objects.items()}
    eligible = [image_id for image_id, names in distinct.items() if len(names) >= n_positives]
    if len(eligible) < n_images:
        raise ValueError(
            f"POPE wants {n_images} images with at least {n_positives} objects, but only {len(eligible)} of "
            f"{len(objects)} annotated images have as many"
        )
    return {image_id: distinct[image_id] for image_id in random.Random(seed).sample(eligible, n_images)}


def _neighbours(sampled: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    """For each object, how many images it shares with each other one."""
    neighbours: dict[str, Counter[str]] = defaultdict(Counter)
    for names in sampled.values():
        for name in names:
            neighbours[name].update(other for other in names if other != name)
    return neighbours


def _negative(ranking: Iterable[str], pool: list[str], asked: set[str], rng: random.Random, image_id: str) -> str:
    for name in ranking:
        if name not in asked:
            return name
    rest = [name for name in pool if name not in asked]
    if not rest:
        raise ValueError(
            f"image {image_id}: no object is left that is absent from it and not asked for yet; the sampled images "
            f"hold only {len(pool)} different objects"
        )
    return rng.choice(rest)


def _article(name: str) -> str:
    return "an" if name[0].lower() in "aeiou" else "a"


def parse_answer(response: str, parsing: AnswerParsing = "reference") -> bool | None:
    r"""Read a response as yes (True), no (False) or neither (None).

    ``reference``: text before the first full stop, commas deleted, split at blanks; "No", "not" or "no" among the words
    means no, anything else yes. So "", "NO", "Nope", "It isn't" and "No\nthere is none" all mean yes; kept because the
    published figures rest on it. ``strict``: the first word must be "yes" or "no" in any case; else neither, which
    counts as a wrong answer.

    Raises:
        ValueError: An unknown ``parsing``.

    Source: AoiDragon/POPE, evaluate.py.
    """
    if parsing == "reference":
        words = response.split(".", maxsplit=1)[0].replace(",", "").split(" ")
        return not {"No", "not", "no"}.intersection(words)
    if parsing == "strict":
        match = re.match(r"\W*(yes|no)\b(?!['’-])", response, flags=re.IGNORECASE)
        return None if match is None else match.group(1).lower() == "yes"
    raise ValueError(f"parsing must be 'reference' or 'strict', not {parsing!r}")


def pope_counts(
    image_ids: Sequence[str],
    answers: Sequence[str],
    responses: Sequence[str],
    parsing: AnswerParsing = "reference",
) -> pd.DataFrame:
    """One row of counts per question; every metric of `POPE_METRICS` is a ratio of two columns' sums.

    F1 = 2·TP / (2·TP + FP + FN) = 2·TP / (said yes + answer yes), hence a ratio of sums too.

    Raises:
        ValueError: An answer other than yes or no, or sequences of different lengths.
    """
    rows = []
    for image_id, answer, response in zip(image_ids, answers, responses, strict=True):
        if str(answer).lower() not in ("yes", "no"):
            raise ValueError(f"image {image_id}: the true answer of a POPE question is yes or no, not {answer!r}")
        truth, said = str(answer).lower() == "yes", parse_answer(response, parsing)
        hit, yes = truth and said is True, said is True
        rows.append((image_id, 1, said is truth, hit, yes, truth, 2 * hit, int(yes) + int(truth), said is None))
    return pd.DataFrame(rows, columns=["image_id", *_COUNTS]).astype(dict.fromkeys(_COUNTS, "int64"))


def pope_metrics(counts: pd.DataFrame) -> dict[str, float | int | None]:
    """Accuracy, precision, recall, F1 (positive class: yes), share of yes, share unparsed, all in [0, 1]; and n.

    None where a denominator is zero (precision of a model that never says yes).
    """
    return {**ratios_of_sums(counts, POPE_METRICS), "n": len(counts)}


def question_rows(questions: Iterable[PopeQuestion], file_names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of a question file in POPE's published form, numbered from 1; images without a file name by id."""
    return [
        {
            "question_id": number,
            "image": file_names.get(question.image_id, question.image_id),
            "text": question.prompt,
            "label": question.answer,
        }
        for number, question in enumerate(questions, start=1)
    ]


def published_questions(rows: Iterable[tuple[int, Any, str | None]], source: str) -> pd.DataFrame:
    """Read a question file as POPE publishes them: rows of ``question_id``, ``image``, ``text``, ``label``.

    Args:
        rows: ``(line, value, fault)`` of each row.
        source: Name of the file, for messages.

    Returns:
        ``item_id``, ``image_id`` (the image's name), ``prompt``, ``answer``.

    Raises:
        ValueError: A row that is no question, or an id twice; the message names the line.
    """
    questions: dict[str, tuple[str, str, str]] = {}
    for line, value, fault in rows:
        row = value if isinstance(value, dict) else {}
        lacking = [name for name in ("question_id", "image", "text", "label") if row.get(name) in (None, "")]
        problem = fault or (f"no {', '.join(lacking)}" if lacking else None)
        if problem is None and str(row["label"]).lower() not in ("yes", "no"):
            problem = f"the label is yes or no, not {row['label']!r}"
        elif problem is None and str(row["question_id"]) in questions:
            problem = f"question_id {row['question_id']} stands twice"
        if problem is not None:
            raise ValueError(f"{source} line {line} is no POPE question: {problem}")
        questions[str(row["question_id"])] = (str(row["image"]), str(row["text"]), str(row["label"]).lower())
    if not questions:
        raise ValueError(f"{source} holds no question")
    table = pd.DataFrame.from_dict(questions, orient="index", columns=["image_id", "prompt", "answer"], dtype="str")
    return table.rename_axis("item_id").reset_index()


def score_pope(
    predictions: Mapping[str, pd.DataFrame],
    questions: Mapping[str, pd.DataFrame],
    *,
    parsing: AnswerParsing,
    settings: BootstrapSettings | None = None,
) -> Scores:
    """POPE of answers to each set of questions (random, popular, adversarial), and of all together.

    Args:
        predictions: By set ``line``, ``item_id`` (of the question) and ``response``.
        questions: By set what `published_questions` gives; those without an answer are left out.
        parsing: See `parse_answer`.
        settings: Resampling of images.
    """
    metrics, tables = {}, []
    for name, answers in predictions.items():
        rows = answers.merge(questions[name], on="item_id", validate="one_to_one")
        counts = pope_counts(list(rows["image_id"]), list(rows["answer"]), list(rows["response"]), parsing)
        scored = bootstrap_metrics(counts, POPE_METRICS, settings)
        metrics |= {f"{name}.{metric}": interval for metric, interval in scored.items()}
        asked = rows[["line", "item_id", "response", "prompt", "answer"]].assign(question_set=name)
        tables.append(pd.concat([asked, counts], axis=1))
    items = pd.concat(tables, ignore_index=True)
    if len(tables) > 1:
        scored = bootstrap_metrics(items, POPE_METRICS, settings)
        metrics |= {f"all.{metric}": interval for metric, interval in scored.items()}
    return Scores(
        metrics,
        items,
        {"parsing": parsing, "questions": {name: len(table) for name, table in zip(predictions, tables, strict=True)}},
    )
