"""Base against aligned model on the same images and prompts: values, intervals, paired changes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.asked import asked_hashes
from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_changes, bootstrap_metrics
from fisao_pipeline.benchmarks.category_effects import category_effects
from fisao_pipeline.benchmarks.chair import CHAIR_METRICS, ChairItem, chair_counts, chair_item
from fisao_pipeline.benchmarks.chair_words import WordChain, WordChainName, choose_word_chain
from fisao_pipeline.benchmarks.comparison_inputs import (
    DECODINGS,
    MODELS,
    canonical_names,
    checked_predictions,
    true_objects,
)
from fisao_pipeline.benchmarks.comparison_table import format_table
from fisao_pipeline.benchmarks.examples import win_lose_tie
from fisao_pipeline.benchmarks.mcnemar import mcnemar_of_answers
from fisao_pipeline.benchmarks.pope import POPE_METRICS, STRATEGIES, AnswerParsing, pope_counts
from fisao_pipeline.benchmarks.ratios import RatioMetrics
from fisao_pipeline.benchmarks.unfinished import finished_part, is_unfinished
from fisao_pipeline.method.object_spans import ObjectVocabulary

__all__ = ["compare", "format_table"]

TOKEN_METRICS: RatioMetrics = {"tokens": ("tokens", "captions")}
# A caption with a token to which the base model gives less than a chance in a thousand has left its language.
UNLIKELY_METRICS: RatioMetrics = {"unlikely_captions": ("unlikely_captions", "captions")}
UNLIKELY_NATS = math.log(1 / 1000)


def compare(
    predictions: pd.DataFrame,
    annotations: pd.DataFrame,
    vocabulary: ObjectVocabulary,
    *,
    annotated_categories: Collection[str] | None = None,
    settings: BootstrapSettings | None = None,
    answer_parsing: AnswerParsing = "reference",
    word_chain: WordChainName = "spans",
    drop_unfinished_sentence: bool = False,
    examples: int = 5,
    same_questions: bool = True,
) -> dict[str, Any]:
    """Compare the two models, one decoding at a time.

    Args:
        predictions: Columns ``model`` (base, aligned), ``decoding`` (greedy, sampled, beam), ``task`` (caption, pope),
            ``image_id``, ``prompt``, ``answer`` (truth of a POPE question), ``response``; optionally ``pope_strategy``,
            ``n_tokens`` (length of the response) and ``lowest_base_logprob`` (nats of its least likely token under the
            base model) and ``finish_reason`` (`length` where the longest answer cut the response off, else `stop`).
            Several samples of a prompt are several rows; resampling draws images, so samples of one image
            stay together.
        annotations: Columns ``image_id`` and ``objects`` (category names; null where the image is not annotated). Names
            are read through the vocabulary ("bike" is its "bicycle"); names that it does not hold are left out and
            listed under ``settings``.
        vocabulary: Names that count as objects. CHAIR figures compare with published ones only for "coco": a longer
            list takes words away from COCO's ("coffee table" is no "dining table" any more).
        annotated_categories: Categories that the annotations would hold wherever visible; mentions of others are not
            scored. None: every category of the vocabulary, right for "coco" on COCO and wrong for any vocabulary wider
            than the annotations.
        settings: Bootstrap settings; the defaults when None.
        answer_parsing: How POPE answers are read, see `fisao_pipeline.benchmarks.pope.parse_answer`.
        word_chain: How CHAIR finds words in captions, see `fisao_pipeline.benchmarks.chair_words`.
        drop_unfinished_sentence: Whether a caption that was cut off is read up to its last whole sentence, see
            `fisao_pipeline.benchmarks.unfinished`; its tokens count as they are.
        examples: Images to show of each kind, at most.
        same_questions: Whether to refuse models that were not asked the same prompts as often; they must have been
            asked about the same images in any case.

    Returns:
        JSON-ready ``{"settings", "notes", "base", "aligned", "change", "categories", "mcnemar", "examples"}``.
        ``base[decoding][metric]`` is ``{"value", "low", "high"}``; ``change[decoding]`` holds ``metric`` (aligned −
        base) and ``metric_relative`` ((aligned − base) / base) in the same form. Undefined values are null and
        explained in ``notes``. The last three hold, per decoding that has such answers, what `category_effects`,
        `mcnemar_of_answers` and `win_lose_tie` give.

    Raises:
        ValueError: No predictions, unknown labels, null responses, columns missing, an image annotated twice, or the
            two models answered different images, prompts or numbers of samples.
    """
    settings = settings or BootstrapSettings()
    predictions = checked_predictions(predictions, same_questions)
    known = vocabulary.categories if annotated_categories is None else annotated_categories
    known = frozenset(canonical_names(known, vocabulary)[0])
    truths, unknown_names = true_objects(annotations, vocabulary, known)
    find = choose_word_chain(word_chain, vocabulary)
    notes: list[str] = []
    report: dict[str, Any] = {
        "settings": {
            "n_resamples": settings.n_resamples,
            "confidence": settings.confidence,
            "seed": settings.seed,
            "answer_parsing": answer_parsing,
            "word_chain": word_chain,
            "vocabulary_categories": len(vocabulary.categories),
            "annotated_categories": len(known),
            "objects_outside_vocabulary": unknown_names,
            "drop_unfinished_sentence": drop_unfinished_sentence,
            "samples": {},
            "asked": {},
            "unfinished_captions": {},
        },
        "notes": notes,
        "base": {},
        "aligned": {},
        "change": {},
        "categories": {},
        "mcnemar": {},
        "examples": {},
    }
    for decoding in (name for name in DECODINGS if (predictions["decoding"] == name).any()):
        rows = predictions[predictions["decoding"] == decoding]
        scored = _scored_captions(rows, truths, find, known, drop_unfinished_sentence)
        captions = _caption_tables(scored)
        report["settings"]["samples"][decoding] = _sample_sizes(rows, captions, truths)
        report["settings"]["asked"][decoding] = asked_hashes(rows[rows["model"] == "base"])
        report["settings"]["unfinished_captions"][decoding] = {
            model: int(own["unfinished"].sum()) for model, own in scored.items()
        }
        tables = [captions] if (rows["task"] == "caption").any() else []
        _add_metrics(report, decoding, [*tables, *_pope_tables(rows, answer_parsing)], settings)
        if len(captions[0]["base"]):
            items = {model: own["item"].tolist() for model, own in scored.items()}
            shown = {model: own[["prompt", "response"]].to_dict("records") for model, own in scored.items()}
            report["categories"][decoding] = category_effects(items, settings)
            report["examples"][decoding] = win_lose_tie(items, shown, examples, settings.seed)
        if (rows["task"] == "pope").any():
            report["mcnemar"][decoding] = mcnemar_of_answers(rows[rows["task"] == "pope"], answer_parsing)
        notes += _undefined_notes(report, decoding)
    return report


Tables = tuple[dict[str, pd.DataFrame], RatioMetrics]
"""Counts of each model, and the metrics that they give."""


def _scored_captions(
    rows: pd.DataFrame,
    truths: Mapping[str, Collection[str]],
    find: WordChain,
    known: frozenset[str],
    drop_unfinished_sentence: bool,
) -> dict[str, pd.DataFrame]:
    """Each model's captions of annotated images with their ``item`` of CHAIR and whether they are ``unfinished``."""
    rows = rows[(rows["task"] == "caption") & rows["image_id"].isin(list(truths))]
    order = ["image_id", "prompt", *(name for name in ("sample_index",) if name in rows), "response"]
    scored = {}
    for model in MODELS:
        own = rows[rows["model"] == model].sort_values(order, kind="stable")
        reasons = own["finish_reason"].tolist() if "finish_reason" in own else [None] * len(own)
        reasons = [reason if isinstance(reason, str) else None for reason in reasons]
        read = own["response"].tolist()
        unfinished = [is_unfinished(text, reason) for text, reason in zip(read, reasons, strict=True)]
        if drop_unfinished_sentence:
            read = [finished_part(text, reason) for text, reason in zip(read, reasons, strict=True)]
        items = [
            chair_item(image_id, text, truths[image_id], word_chain=find, annotated_categories=known)
            for image_id, text in zip(own["image_id"], read, strict=True)
        ]
        scored[model] = own.assign(item=pd.Series(items, index=own.index, dtype=object), unfinished=unfinished)
    return scored


def _caption_tables(scored: Mapping[str, pd.DataFrame]) -> Tables:
    """CHAIR counts of each model's captions, and the metrics that they give."""
    tables = {}
    optional = {"n_tokens": TOKEN_METRICS, "lowest_base_logprob": UNLIKELY_METRICS}
    metrics = dict(CHAIR_METRICS)
    for model, own in scored.items():
        items: list[ChairItem] = own["item"].tolist()
        tables[model] = chair_counts(items)
        tables[model].attrs["unscored"] = sum(item.unscored for item in items)
        if "n_tokens" in own:
            tables[model]["tokens"] = own["n_tokens"].to_numpy()
        if "lowest_base_logprob" in own:
            tables[model]["unlikely_captions"] = (own["lowest_base_logprob"] < UNLIKELY_NATS).to_numpy()
        for column, more in optional.items():
            metrics |= more if column in own else {}
    return tables, metrics


def _pope_tables(rows: pd.DataFrame, parsing: AnswerParsing) -> list[Tables]:
    """POPE counts over all questions and, where strategies are given, the accuracy of each."""
    rows = rows[rows["task"] == "pope"]
    if rows.empty:
        return []
    groups = [(rows, {f"pope_{name}": pair for name, pair in POPE_METRICS.items()})]
    if "pope_strategy" in rows:
        for strategy in STRATEGIES:
            asked = rows[rows["pope_strategy"] == strategy]
            if not asked.empty:
                groups.append((asked, {f"pope_accuracy_{strategy}": POPE_METRICS["accuracy"]}))
    return [
        ({model: _pope_counts(group[group["model"] == model], parsing) for model in MODELS}, metrics)
        for group, metrics in groups
    ]


def _pope_counts(rows: pd.DataFrame, parsing: AnswerParsing) -> pd.DataFrame:
    return pope_counts(rows["image_id"].tolist(), rows["answer"].tolist(), rows["response"].tolist(), parsing)


def _add_metrics(report: dict[str, Any], decoding: str, tables: list[Tables], settings: BootstrapSettings) -> None:
    for model in MODELS:
        report[model][decoding] = {
            name: interval.to_dict()
            for counts, metrics in tables
            for name, interval in bootstrap_metrics(counts[model], metrics, settings).items()
        }
    report["change"][decoding] = change = {}
    for counts, metrics in tables:
        pairs = bootstrap_changes(counts["base"], counts["aligned"], metrics, settings)
        for name, (difference, relative) in pairs.items():
            change[name] = difference.to_dict()
            change[f"{name}_relative"] = relative.to_dict()


def _sample_sizes(rows: pd.DataFrame, captions: Tables, truths: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """What one decoding's figures rest on; the base model's rows stand for both, which were checked to be alike."""
    counts = captions[0]
    base = rows[rows["model"] == "base"]
    asked, questions = base[base["task"] == "caption"], base[base["task"] == "pope"]
    return {
        "captions": len(counts["base"]),
        "caption_images": int(counts["base"]["image_id"].nunique()),
        "images_without_annotation": len(set(asked["image_id"]) - set(truths)),
        "caption_prompts": sorted(set(asked["prompt"]))[:10],
        "unscored_mentions": {model: counts[model].attrs["unscored"] for model in MODELS},
        "pope_questions": len(questions),
        "pope_images": int(questions["image_id"].nunique()),
    }


def _undefined_notes(report: dict[str, Any], decoding: str) -> list[str]:
    """One note that lists what is undefined by the reason, and for which model where it is only one; or none."""
    no_caption = not report["settings"]["samples"][decoding]["captions"]
    of: dict[tuple[str, str], list[str]] = {}
    for name in report["base"][decoding]:
        models = [model for model in MODELS if report[model][decoding][name]["value"] is None]
        if models:
            why = _REASONS.get(name, "nothing to divide by")
            if no_caption and not name.startswith("pope_"):
                why = _NO_CAPTION
            of.setdefault((" and ".join(models), why), []).append(name)
    listed = "; ".join(f"{', '.join(names)} of {models} ({why})" for (models, why), names in of.items())
    return [f"{decoding}: undefined, for the denominator is zero: {listed}"] if of else []


_NO_CAPTION = "no captioned image is annotated"
_REASONS = {
    "chair_i": "no caption names an object that the annotations can know",
    "chair_s": _NO_CAPTION,
    "recall": "no captioned image has an annotated object",
    "objects_per_caption": _NO_CAPTION,
    "repeated_mentions": _NO_CAPTION,
    "tokens": _NO_CAPTION,
    "unlikely_captions": _NO_CAPTION,
    "pope_precision": "the model never says yes",
    "pope_recall": "no question has the answer yes",
}
