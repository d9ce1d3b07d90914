"""MME: pairs of yes/no questions an image, over perception and cognition (Fu et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.ratios import RatioMetrics, ratios_of_sums, sums_by_image
from fisao_pipeline.benchmarks.scores import Scores, plain_scores

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MME_METRICS: RatioMetrics = {"accuracy": ("correct", "questions"), "accuracy_plus": ("all_correct", "images")}
_READ_CHARACTERS = 4


def parse_answer(response: str) -> Literal["yes", "no", "other"]:
    """Read a response as the reference does: its first four characters, in lower case, with "yes" in them, else "no".

    So "Yes, …", " yes" and "ayes" are yes; "No" and "Not" are no and so are "Know" and "Snow"; "The answer is yes" is
    neither and wrong.

    Source: BradyFU/Awesome-Multimodal-Large-Language-Models, MME, eval_tool/calculation.py.
    """
    start = response.lower()[:_READ_CHARACTERS]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def mme_counts(image_ids: Sequence[str], answers: Sequence[str], responses: Sequence[str]) -> pd.DataFrame:
    """One row per question of one category; ``images`` and ``all_correct`` are 0 but on the first row of an image.

    Raises:
        ValueError: A true answer other than yes or no, or an image without exactly two questions: accuracy+ asks for
            both.
    """
    rows = pd.DataFrame({"image_id": image_ids, "answer": [str(answer).lower() for answer in answers]}, dtype="str")
    strange = rows.loc[~rows["answer"].isin(["yes", "no"]), "answer"]
    if len(strange):
        raise ValueError(f"the true answer of an MME question is yes or no, not {strange.iloc[0]!r}")
    per_image = rows.groupby("image_id")["answer"].transform("size")
    if (per_image != 2).any():
        first = rows.loc[per_image != 2, "image_id"].iloc[0]
        raise ValueError(f"image {first} has {int(per_image[rows['image_id'] == first].iloc[0])} MME questions, not 2")
    correct = rows["answer"] == [parse_answer(text) for text in responses]
    first = ~rows["image_id"].duplicated()
    both = correct.groupby(rows["image_id"]).transform("all")
    columns = {"questions": 1, "correct": correct, "images": first, "all_correct": first & both}
    return rows[["image_id"]].assign(**columns).astype(dict.fromkeys(columns, "int64"))


def score_mme(predictions: pd.DataFrame, settings: BootstrapSettings | None = None) -> Scores:
    """Accuracy and accuracy+ of each category, and MME's scores: 100·(accuracy + accuracy+), summed over categories.

    Args:
        predictions: ``line``, ``item_id``, ``image_id``, ``category``, ``answer`` and ``response``.
        settings: Resampling of images.
    """
    metrics, tables, rows = {}, [], []
    for category, part in predictions.groupby("category", sort=False):
        try:
            counts = mme_counts(list(part["image_id"]), list(part["answer"]), list(part["response"]))
        except ValueError as error:
            raise ValueError(f"mme category {category}: {error}") from error
        exact = ratios_of_sums(sums_by_image(counts), MME_METRICS)
        score = 100 * (exact["accuracy"] + exact["accuracy_plus"])
        rows.append({"category": category, "images": int(counts["images"].sum()), **exact, "score": score})
        scored = bootstrap_metrics(counts, MME_METRICS, settings)
        metrics |= {f"{category}.{metric}": interval for metric, interval in scored.items()}
        tables.append(pd.concat([part.reset_index(drop=True), counts.drop(columns="image_id")], axis=1))
    table = pd.DataFrame(rows)
    points = dict(zip(table["category"], table["score"], strict=True))
    for name, categories in (("perception_score", PERCEPTION), ("cognition_score", COGNITION)):
        there = [points[category] for category in categories if category in points]
        metrics |= plain_scores({name: sum(there)} if there else {})
    metrics |= plain_scores({"score": sum(points.values())})
    missing = [name for name in (*PERCEPTION, *COGNITION) if name not in points]
    basis = {"categories": len(points), "categories_missing": missing}
    return Scores(metrics, pd.concat(tables, ignore_index=True), basis, {"by_category": table})
