"""From the files that the parameters name to predictions and truth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fisao_pipeline.benchmarks.amber import GENERATIVE, read_annotations
from fisao_pipeline.benchmarks.pope import published_questions
from fisao_pipeline.datasets.image_decoding import MAX_PIXELS
from fisao_pipeline.datasets.json_stream import open_json, tolerant_rows
from fisao_pipeline.ingestion.image_truth import ImageTruth, id_reader, read_truth
from fisao_pipeline.ingestion.images import Folder
from fisao_pipeline.ingestion.names import ImageNames
from fisao_pipeline.ingestion.predictions import Predictions, read_cosine, read_predictions, read_words
from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, collect_rejections, rejections_table
from fisao_pipeline.params.score_predictions import (
    AmberScoring,
    CaptionScoring,
    ChairScoring,
    ClipScoring,
    Files,
    HalBenchScoring,
    MmeScoring,
    PopeScoring,
    ScorePredictionsParams,
)


@dataclass(frozen=True)
class ScoringInput:
    """What one benchmark is computed from.

    Attributes:
        benchmark: Its block of the parameters.
        predictions: By set of questions; the one set of others has the empty name.
        truth: What the answers are held against, as the benchmark's scoring wants it.
        files: Digest of each file by its setting.
    """

    benchmark: str
    predictions: dict[str, Predictions]
    truth: dict[str, Any]
    files: dict[str, str]


def read_inputs(params: ScorePredictionsParams) -> list[ScoringInput]:
    """Read what is scored.

    Raises:
        DatasetError: A file that cannot be read.
        ValueError: Truth that is none; the message names file and line.
    """
    inputs = []
    for name in params.benchmarks():
        predictions, truth = _READERS[name](getattr(params, name))
        inputs.append(ScoringInput(name, predictions, truth, file_digests(params, name)))
    return inputs


def file_digests(params: ScorePredictionsParams, benchmark: str) -> dict[str, str]:
    """SHA-256 of each file of a benchmark by its setting."""
    own = {setting: path for setting, path in params.files().items() if setting.split(".")[1] == benchmark}
    return {setting: _digest(path) for setting, path in own.items()}


def _read_chair(block: ChairScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    truth = _image_truth(block.instances, block.captions, "chair")
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.text_field,
        find_id=id_reader(block.image_ids, truth),
        expected=[*truth.objects, *(i for i in truth.captions if i not in truth.objects)] if block.every_image else (),
        known=truth.objects.keys() | truth.captions.keys(),
        several=block.several_per_image,
    )
    return {"": predictions}, _of_images(truth, predictions.table["item_id"].unique())


def _read_pope(block: PopeScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    predictions, questions = {}, {}
    for name, path in block.predictions.items():
        if path:
            file = Path(_one(block.questions[name]))
            asked = published_questions(tolerant_rows(file), file.name)
            ids = dict.fromkeys(asked["item_id"])
            questions[name] = asked
            predictions[name] = read_predictions(
                tolerant_rows(Path(path)),
                _name(path),
                id_field=block.id_field,
                value_field=block.text_field,
                find_id=_among(ids),
                expected=ids,
            )
    return predictions, questions


def _read_amber(block: AmberScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    rows = _json(block.annotations, "amber.annotations", list)
    relation = _json(block.relation, "amber.relation", dict)
    annotations, words = read_annotations(rows, relation, Path(_one(block.safe_words)).read_text(encoding="utf-8"))
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.text_field,
        find_id=_among(annotations),
    )
    used = {item_id: annotations[item_id] for item_id in predictions.table["item_id"]}
    # Descriptions and questions are two benchmarks in one file, and may be answered one without the other.
    answered = {row["type"] == GENERATIVE for row in used.values()}
    asked = sum((row["type"] == GENERATIVE) in answered for row in annotations.values())
    predictions = replace(predictions, unanswered=asked - len(used))
    return {"": predictions}, {"annotations": used, "words": words}


def _read_mme(block: MmeScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    fields = {block.category_field: "category", block.label_field: "answer"}
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.image_field,
        value_field=block.text_field,
        find_id=as_id,
        several=True,
        more_fields=list(fields),
        check=_mme_fault(block),
    )
    table = predictions.table.rename(columns=fields)
    table = table.assign(image_id=table["item_id"], category=table["category"].astype("str"))
    return {"": _whole_pairs(replace(predictions, table=table), _name(block.predictions))}, {}


def _mme_fault(block: MmeScoring) -> Callable[[dict[str, Any]], str | None]:
    def check(row: dict[str, Any]) -> str | None:
        label = row[block.label_field]
        return None if str(label).lower() in ("yes", "no") else f"label neither yes nor no: {label!r:.60}"

    return check


def _whole_pairs(predictions: Predictions, source: str) -> Predictions:
    """Without the images of which not both questions are there: accuracy+ asks for both."""
    table = predictions.table
    whole = table.groupby(["category", "image_id"])["line"].transform("size") == 2
    odd = [
        Rejection("prediction", f"{source} line {row.line}", f"not one of two: image {row.image_id} of {row.category}")
        for row in table[~whole].itertuples()
    ]
    rejected = pd.concat([predictions.rejected, rejections_table(odd)], ignore_index=True)
    return replace(predictions, table=table[whole].reset_index(drop=True), rejected=rejected)


def _read_captions(block: CaptionScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    truth = _image_truth(None, block.captions, "captions")
    truth.objects.clear()
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.text_field,
        find_id=id_reader(block.image_ids, truth),
        known=truth.captions,
    )
    return {"": predictions}, _of_images(truth, predictions.table["item_id"])


def _read_halbench(block: HalBenchScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    truth = _image_truth(block.instances, block.captions, "object_halbench")
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.objects_field,
        find_id=id_reader(block.image_ids, truth),
        known=truth.objects.keys() | truth.captions.keys(),
        several=True,
        read_value=read_words,
    )
    return {"": predictions}, _of_images(truth, predictions.table["item_id"].unique())


def _read_clip(block: ClipScoring) -> tuple[dict[str, Predictions], dict[str, Any]]:
    predictions = read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.cosine_field,
        find_id=as_id,
        several=True,
        read_value=read_cosine,
    )
    return {"": predictions}, {}


def read_clip_captions(block: ClipScoring, folder: Folder) -> Predictions:
    """Captions of images in a folder; the images are those that can be decoded, by their names in the folder."""
    listed = folder.files()
    names = ImageNames(listed)
    problems: dict[str, str | None] = {}

    def find(value: Any) -> str | None:
        name = as_text(value)
        found = names.rows(name) if name is not None else []
        return listed[found[0]] if len(found) == 1 else None

    def check(row: dict[str, Any]) -> str | None:
        name = find(row[block.id_field])
        if name not in problems:
            problems[name] = folder.check(name, MAX_PIXELS).reason
        return problems[name] and f"image cannot be used: {problems[name]}"

    return read_predictions(
        tolerant_rows(Path(_one(block.predictions))),
        _name(block.predictions),
        id_field=block.id_field,
        value_field=block.text_field,
        find_id=find,
        several=True,
        check=check,
    )


_READERS: dict[str, Callable[[Any], tuple[dict[str, Predictions], dict[str, Any]]]] = {
    "chair": _read_chair,
    "pope": _read_pope,
    "amber": _read_amber,
    "mme": _read_mme,
    "captions": _read_captions,
    "object_halbench": _read_halbench,
    "clip_score": _read_clip,
}


def _json(path: str | None, setting: str, kind: type) -> Any:
    content = open_json(Path(_one(path)))
    if isinstance(content, Mapping) != (kind is dict) or not isinstance(content, Collection):
        raise ValueError(f"score_predictions.{setting}: {_name(path)} holds no {'object' if kind is dict else 'list'}")
    return content


def _image_truth(instances: Files, captions: Files, benchmark: str) -> ImageTruth:
    paths = [Path(path) for files in (instances, captions) for path in _all(files)]
    if not paths:
        raise ValueError(f"score_predictions.{benchmark}: set instances (and captions): there is nothing to score by")
    truth = read_truth([(path.name, open_json(path)) for path in paths])
    collect_rejections(rejections_table(truth.rejections), listed_in="annotations")
    return truth


def _of_images(truth: ImageTruth, image_ids: Collection[str]) -> dict[str, Any]:
    return {
        "objects": {i: truth.objects[i] for i in image_ids if i in truth.objects},
        "references": {i: truth.captions[i] for i in image_ids if i in truth.captions},
        "categories": None if truth.categories is None else sorted(truth.categories),
    }


def _among(ids: Collection[str]) -> Callable[[Any], str | None]:
    def find(value: Any) -> str | None:
        found = as_id(value)
        return found if found in ids else None

    return find


def _all(files: Files) -> tuple[str, ...]:
    return (files,) if isinstance(files, str) else files or ()


def _one(path: str | None) -> str:
    assert path is not None, "only benchmarks with predictions are read"
    return path


def _name(path: str | None) -> str:
    return Path(_one(path)).name


def _digest(path: str) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
