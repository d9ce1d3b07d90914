"""What a comparison rests on: predictions that can be paired, and annotations in the vocabulary's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import pandas as pd

from fisao_pipeline.method.object_spans import ObjectVocabulary

MODELS = ("base", "aligned")
DECODINGS = ("greedy", "sampled", "beam")
TASKS = ("caption", "pope")

_COLUMNS = ("model", "decoding", "task", "image_id", "prompt", "answer", "response")


def checked_predictions(predictions: pd.DataFrame, same_questions: bool = True) -> pd.DataFrame:
    """Return the predictions with string image ids, or say what keeps them from being compared.

    Args:
        predictions: The table.
        same_questions: Whether both models must have been asked the same, prompt by prompt.

    Raises:
        ValueError: Columns missing, no rows, unknown labels, null responses, or the two models were not asked the same.
    """
    missing = [column for column in _COLUMNS if column not in predictions]
    if missing:
        raise ValueError(f"predictions lack the columns {missing}")
    if predictions.empty:
        raise ValueError("predictions are empty: nothing to compare")
    for column, allowed in (("model", MODELS), ("decoding", DECODINGS), ("task", TASKS)):
        strange = sorted(set(predictions[column].map(str)) - set(allowed))
        if strange:
            raise ValueError(f"predictions column {column!r} holds {strange}; it may hold {list(allowed)}")
    if predictions["response"].isna().any():
        raise ValueError(f"{int(predictions['response'].isna().sum())} predictions have no response (null)")
    predictions = predictions.assign(image_id=predictions["image_id"].astype(str))
    if same_questions:
        _refuse_unequal_questions(predictions)
    return predictions


def _refuse_unequal_questions(predictions: pd.DataFrame) -> None:
    """A paired comparison needs both models on the same images, prompts, truths and numbers of samples."""
    key = ["decoding", "task", "image_id", "prompt", "answer"]
    key += [column for column in ("pope_strategy",) if column in predictions]
    # Nulls differ from themselves (NaN), so they would never find their counterpart.
    questions = predictions[key].astype(object).where(predictions[key].notna(), "")
    asked = {
        model: Counter(questions[predictions["model"] == model].itertuples(index=False, name=None)) for model in MODELS
    }
    for model, other in (MODELS, MODELS[::-1]):
        surplus = asked[model] - asked[other]
        if surplus:
            decoding, task, image_id, prompt, *_ = next(iter(surplus))
            raise ValueError(
                f"base and aligned were not asked the same: {surplus.total()} predictions of {model!r} have no "
                f"counterpart of {other!r}, first: {decoding} {task}, image {image_id}, prompt {prompt!r}"
            )


def canonical_names(names: Collection[str], vocabulary: ObjectVocabulary) -> tuple[list[str], list[str]]:
    """Vocabulary names of annotation names ("bike" is its "bicycle"), and the names that it does not hold."""
    pairs = [(name, vocabulary.canonical(name)) for name in names]
    return [category for _, category in pairs if category], [name for name, category in pairs if not category]


def true_objects(
    annotations: pd.DataFrame, vocabulary: ObjectVocabulary, known: frozenset[str]
) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Objects of each annotated image in the vocabulary's names, and the names that could not be used.

    Raises:
        ValueError: An image is annotated twice.
    """
    ids = annotations["image_id"].astype(str)
    if ids.duplicated().any():
        raise ValueError(f"annotations hold images twice: {sorted(set(ids[ids.duplicated()]))[:5]}")
    truths: dict[str, frozenset[str]] = {}
    unknown: set[str] = set()
    for image_id, objects in zip(ids, annotations["objects"], strict=True):
        # A null cell arrives as None or NaN, a list cell from parquet as an array.
        if objects is None or isinstance(objects, float):
            continue
        categories, strange = canonical_names(list(objects), vocabulary)
        truths[image_id] = known.intersection(categories)
        unknown.update(strange, set(categories) - known)
    return truths, sorted(unknown)
