"""AMBER: objects that a description makes up, and yes/no questions (Wang et al., 2023), without a model.

Source: junyangwang0410/AMBER, inference.py. The published figures rest on NLTK's tagger and WordNet lemmatizer, and on
the word vectors of spaCy's en_core_web_lg; see `fisao_pipeline.benchmarks.amber_words` for what stands in and how to
have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.ratios import RatioMetrics, ratios_of_sums
from fisao_pipeline.benchmarks.scores import Scores, plain_scores

Similar = Callable[[str, str], bool]
"""Whether two words mean much the same; the reference asks for a cosine above 0.8."""
FindNouns = Callable[[str], list[str]]
"""From a response to its nouns, lemmatized, as written in upper or lower case."""

GENERATIVE = "generative"
GENERATIVE_METRICS: RatioMetrics = {
    "chair": ("flagged", "nouns"),
    "cover": ("covered", "truths"),
    "hal": ("flagged_responses", "responses"),
    "cog": ("marked", "associated"),
}
DISCRIMINATIVE_METRICS: RatioMetrics = {
    "accuracy": ("correct", "questions"),
    "precision": ("true_no", "said_no"),
    "recall": ("true_no", "answer_no"),
    "f1": ("f1_numerator", "f1_denominator"),
}
# Type in the annotations to the dimension that the paper reports; the reference counts any other type as a relation.
DIMENSIONS = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "attribute",
    "discriminative-attribute-number": "attribute",
    "discriminative-attribute-action": "attribute",
}
_RELATION = "relation"
_GENERATIVE_COUNTS = (
    "nouns",
    "flagged",
    "truths",
    "covered",
    "responses",
    "flagged_responses",
    "associated",
    "marked",
)
_DISCRIMINATIVE_COUNTS = (
    "questions",
    "correct",
    "true_no",
    "said_no",
    "answer_no",
    "f1_numerator",
    "f1_denominator",
)


@dataclass(frozen=True)
class AmberWords:
    """What counts as a word, and which words go together.

    Attributes:
        relation: Each annotated word to the words that mean it.
        safe: Words that are never held against a response.
    """

    relation: Mapping[str, Sequence[str]]
    safe: frozenset[str]

    @cached_property
    def known(self) -> frozenset[str]:
        """All words of the relations: other nouns are not looked at."""
        return frozenset(self.relation).union(*self.relation.values())


@dataclass(frozen=True)
class AmberItem:
    """What AMBER counts in one description.

    Attributes:
        nouns: Nouns among the known words, in order; the denominator of CHAIR, safe words included.
        flagged: Those that are made up.
        covered: Which of the image's true words are named; one that is listed twice, at its first place only.
        marked: Which of its habitual hallucinations are named, by place too.
    """

    nouns: tuple[str, ...]
    flagged: tuple[str, ...]
    covered: tuple[bool, ...]
    marked: tuple[bool, ...]


def amber_item(
    nouns: Sequence[str], truth: Sequence[str], hallu: Sequence[str], words: AmberWords, similar: Similar
) -> AmberItem:
    """Go through the nouns of one description in their order.

    A safe word is passed over, but stays in the denominator. A word of the truth, or one that means it, covers that.
    Any other is held against the habitual hallucinations, by the word and then by similarity; both mark the first that
    fits, so that one noun may mark two. Then, even if it was marked, a word similar to one of the truth covers it and
    is forgiven. What is left is flagged.

    Args:
        nouns: Of the response, lemmatized, as written: "Dog" is no "dog".
        truth: What the image shows.
        hallu: What is habitually made up about it.
        words: Relations and safe words.
        similar: See `Similar`.

    Raises:
        ValueError: A word of the annotation has no entry in the relations.
    """
    kept = [noun for noun in nouns if noun in words.known]
    true_words, hallu_words = _with_relations(truth, words), _with_relations(hallu, words)
    covered, marked = [False] * len(truth), [False] * len(hallu)
    flagged = []
    for noun in kept:
        if noun in words.safe:
            continue
        exact = _first(true_words, lambda word, noun=noun: word == noun)
        if exact is not None:
            covered[exact] = True
            continue
        for found in (
            _first(hallu_words, lambda word, noun=noun: word == noun),
            _first(hallu_words, lambda word, noun=noun: similar(noun, word)),
        ):
            if found is not None:
                marked[found] = True
        rescued = _first(true_words, lambda word, noun=noun: similar(noun, word))
        if rescued is not None:
            covered[rescued] = True
        else:
            flagged.append(noun)
    return AmberItem(tuple(kept), tuple(flagged), tuple(covered), tuple(marked))


def _with_relations(annotated: Sequence[str], words: AmberWords) -> list[tuple[str, int]]:
    """Words with the place of the annotated word that they mean: first all related ones, then the annotated ones."""
    unknown = [word for word in annotated if word not in words.relation]
    if unknown:
        raise ValueError(f"amber: {unknown[0]!r} is annotated but has no entry in the relations; do the files match?")
    related = [(other, place) for place, word in enumerate(annotated) for other in words.relation[word]]
    return related + [(word, place) for place, word in enumerate(annotated)]


def _first(words: Sequence[tuple[str, int]], fits: Callable[[str], bool]) -> int | None:
    return next((place for word, place in words if fits(word)), None)


def generative_counts(item_ids: Sequence[str], items: Sequence[AmberItem]) -> pd.DataFrame:
    """One row of counts per description; AMBER has one description an image."""
    rows = [
        (
            item_id,
            len(item.nouns),
            len(item.flagged),
            len(item.covered),
            sum(item.covered),
            1,
            int(bool(item.flagged)),
            len(item.marked),
            sum(item.marked),
        )
        for item_id, item in zip(item_ids, items, strict=True)
    ]
    counts = pd.DataFrame(rows, columns=["image_id", *_GENERATIVE_COUNTS])
    return counts.astype(dict.fromkeys(_GENERATIVE_COUNTS, "int64"))


def discriminative_counts(item_ids: Sequence[str], answers: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """One row of counts per question; the positive class is no.

    An answer counts when it is "Yes" or "No" to the letter: "yes", "No." and "No, …" are wrong, whatever the truth, and
    are no "No" for the precision either.

    Raises:
        ValueError: A true answer other than yes or no.
    """
    rows = []
    for item_id, answer, response in zip(item_ids, answers, responses, strict=True):
        if answer not in ("yes", "no"):
            raise ValueError(f"amber question {item_id}: the true answer is yes or no, not {answer!r}")
        said_no, is_no = response == "No", answer == "no"
        correct = response == ("No" if is_no else "Yes")
        hit = said_no and is_no
        rows.append((item_id, 1, correct, hit, said_no, is_no, 2 * hit, int(said_no) + int(is_no)))
    counts = pd.DataFrame(rows, columns=["image_id", *_DISCRIMINATIVE_COUNTS])
    return counts.astype(dict.fromkeys(_DISCRIMINATIVE_COUNTS, "int64"))


def amber_score(chair: float | None, f1: float | None) -> float | None:
    """(100 − CHAIR + F1) / 2, both in percent; here all in shares: (1 − chair + f1) / 2."""
    return None if chair is None or f1 is None else (1 - chair + f1) / 2


def printed_figures(counts: pd.DataFrame, epsilon: float = 1e-4) -> dict[str, float | None]:
    """Accuracy, precision, recall and F1 of yes/no questions in percent, as the reference prints them.

    It rounds to one digit, takes F1 from rounded precision and recall, and adds ``epsilon`` to its denominator: 0.0001,
    but 0.001 for existence.
    """
    exact = ratios_of_sums(counts, DISCRIMINATIVE_METRICS)
    shown = {
        name: None if exact[name] is None else round(exact[name] * 100, 1)
        for name in ("accuracy", "precision", "recall")
    }
    precision, recall = shown["precision"], shown["recall"]
    if precision is None or recall is None:
        return {**shown, "f1": None}
    of_one = 2 * (precision / 100) * (recall / 100) / ((precision / 100) + (recall / 100) + epsilon)
    return {**shown, "f1": round(of_one * 100, 1)}


def read_annotations(annotations: Any, relation: Any, safe_words: str) -> tuple[dict[str, dict[str, Any]], AmberWords]:
    """Check AMBER's three files: the annotations by id, and the words.

    Args:
        annotations: Rows of ``id``, ``type``, ``truth`` and, of descriptions, ``hallu``.
        relation: Word to related words.
        safe_words: One a line.

    Raises:
        ValueError: A file is not what it should be.
    """
    if not isinstance(relation, Mapping) or not all(
        isinstance(words, list) for words in map(_listed, relation.values())
    ):
        raise ValueError("amber.relation: it needs an object of words, each with the list of its related words")
    by_id: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(annotations, start=1):
        good = isinstance(row, dict) and "id" in row and isinstance(row.get("type"), str) and "truth" in row
        if good and row["type"] == GENERATIVE:
            good = isinstance(row["truth"], list) and isinstance(row.get("hallu"), list)
        elif good:
            good = row["truth"] in ("yes", "no")
        if not good or str(row["id"]) in by_id:
            raise ValueError(f"amber.annotations: row {place} is no annotation of AMBER, or its id stands twice")
        by_id[str(row["id"])] = row
    words = {str(word): [str(other) for other in others] for word, others in relation.items()}
    return by_id, AmberWords(words, frozenset(safe_words.splitlines()))


def _listed(value: Any) -> Any:
    return list(value) if not isinstance(value, str | Mapping) and hasattr(value, "__iter__") else value


def score_amber(
    predictions: pd.DataFrame,
    annotations: Mapping[str, Mapping[str, Any]],
    words: AmberWords,
    *,
    find_nouns: FindNouns,
    similar: Similar,
    settings: BootstrapSettings | None = None,
) -> Scores:
    """AMBER of descriptions and of answers, of whichever there are.

    Args:
        predictions: ``line``, ``item_id`` and ``response``.
        annotations: By id, see `read_annotations`.
        words: Relations and safe words.
        find_nouns: See `FindNouns`.
        similar: See `Similar`.
        settings: Resampling, over descriptions and over questions: AMBER's files do not say which share an image.
    """
    kinds = predictions["item_id"].map(lambda item_id: annotations[item_id]["type"])
    described, asked = predictions[kinds == GENERATIVE], predictions[kinds != GENERATIVE]
    metrics, tables, breakdowns = {}, [], {}
    if len(described):
        items = [
            amber_item(find_nouns(text), annotations[item_id]["truth"], annotations[item_id]["hallu"], words, similar)
            for item_id, text in zip(described["item_id"], described["response"], strict=True)
        ]
        counts = generative_counts(list(described["item_id"]), items)
        metrics |= bootstrap_metrics(counts, GENERATIVE_METRICS, settings)
        lists = {"nouns_found": [list(i.nouns) for i in items], "nouns_flagged": [list(i.flagged) for i in items]}
        tables.append(pd.concat([described.reset_index(drop=True), counts, pd.DataFrame(lists)], axis=1))
    if len(asked):
        answers = [annotations[item_id]["truth"] for item_id in asked["item_id"]]
        counts = discriminative_counts(list(asked["item_id"]), answers, list(asked["response"]))
        metrics |= bootstrap_metrics(counts, DISCRIMINATIVE_METRICS, settings)
        of = [DIMENSIONS.get(annotations[item_id]["type"], _RELATION) for item_id in asked["item_id"]]
        printed = [{"dimension": "all", "questions": len(counts), **printed_figures(counts)}]
        for dimension in sorted(set(of)):
            part = counts[[name == dimension for name in of]]
            epsilon = 1e-3 if dimension == "existence" else 1e-4
            printed.append({"dimension": dimension, "questions": len(part), **printed_figures(part, epsilon)})
        breakdowns["as_printed_by_the_reference"] = pd.DataFrame(printed)
        more = pd.DataFrame({"answer": answers, "dimension": of})
        tables.append(pd.concat([asked.reset_index(drop=True), counts, more], axis=1))
    if len(described) and len(asked):
        metrics |= plain_scores({"amber_score": amber_score(metrics["chair"].value, metrics["f1"].value)})
    basis = {"descriptions": len(described), "questions": len(asked)}
    return Scores(metrics, pd.concat(tables, ignore_index=True), basis, breakdowns)
