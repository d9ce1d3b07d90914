"""Parameters of `score_predictions` and `clip_score`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, StageParams

# One file, several, or none; `--params` of the command line cannot express a list.
Files = str | tuple[str, ...] | None
ImageIds = Literal["id", "file_name", "coco_number"]
_PREDICTIONS = "JSON Lines, or a JSON list; null leaves the benchmark out."
_IMAGE_IDS = "How the id field names an image: by the annotations' id, by its file name, or by the last number in that."


class ChairScoring(StageParams):
    """Captions against the objects of COCO-style annotations."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    instances: Files = Field(description="COCO instances, or JSON of image ids with the list of their objects.")
    captions: Files = Field(description="COCO captions: what they name is in the image too.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    several_per_image: bool = Field(description="Whether an image may have several captions; else a fault.")
    every_image: bool = Field(description="Whether an annotated image without a caption is a fault.")
    word_chain: Literal["spans", "reference"] = Field(description="How words are found; see docs/evaluation.md.")
    vocabulary: str = Field(min_length=1)


class PopeScoring(StageParams):
    """Answers to published POPE questions."""

    predictions: dict[str, str | None] = Field(description="Answers by set of questions: random, popular, adversarial.")
    questions: dict[str, str | None] = Field(description="Question files by the same names.")
    id_field: str | None = Field(min_length=1, description="Null: answers stand in the order of the questions.")
    text_field: str = Field(min_length=1)
    parsing: Literal["reference", "strict"]

    @model_validator(mode="after")
    def _questions_of_every_answer(self) -> PopeScoring:
        lacking = [name for name, path in self.predictions.items() if path and not self.questions.get(name)]
        if lacking:
            raise ValueError(f"pope.questions.{lacking[0]} is missing: the questions that these predictions answer")
        return self


class AmberScoring(StageParams):
    """Descriptions and answers against AMBER's three files."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    annotations: str | None = Field(min_length=1, description="AMBER's annotations.json.")
    relation: str | None = Field(min_length=1, description="AMBER's relation.json.")
    safe_words: str | None = Field(min_length=1, description="AMBER's safe_words.txt.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    nouns: Literal["pattern", "nltk"] = Field(description="The built-in tagger, or the published one with its data.")
    similarity: str = Field(min_length=1, description="`exact`, or an installed spaCy model with word vectors.")

    @model_validator(mode="after")
    def _all_files(self) -> AmberScoring:
        lacking = [name for name in ("annotations", "relation", "safe_words") if not getattr(self, name)]
        if self.predictions and lacking:
            raise ValueError(f"amber.{lacking[0]} is missing: AMBER's own file")
        return self


class MmeScoring(StageParams):
    """Answers to MME's questions, with category, image and true answer in each row."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    category_field: str = Field(min_length=1)
    image_field: str = Field(min_length=1)
    label_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)


class CaptionScoring(StageParams):
    """Captions against reference captions: BLEU, ROUGE-L, CIDEr."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    captions: Files = Field(description="COCO captions.")
    id_field: str = Field(min_length=1)
    text_field: str = Field(min_length=1)
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    tokens: Literal["treebank", "as_written"] = Field(description="Made here, or what blanks separate.")


class HalBenchScoring(StageParams):
    """Objects that somebody extracted from responses, against COCO-style annotations."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    instances: Files = Field(description="As of chair.")
    captions: Files = Field(description="As of chair.")
    id_field: str = Field(min_length=1)
    objects_field: str = Field(min_length=1, description="List of words.")
    image_ids: ImageIds = Field(description=_IMAGE_IDS)
    word_chain: Literal["spans", "reference"] = Field(description="Of the reference captions.")
    vocabulary: str = Field(min_length=1)


class ClipScoring(StageParams):
    """Cosines of captions with their images."""

    predictions: str | None = Field(min_length=1, description=_PREDICTIONS)
    id_field: str = Field(min_length=1)
    cosine_field: str = Field(min_length=1)
    text_field: str = Field(
        min_length=1, description="Caption, for the pipeline `clip_score`, which makes the cosines."
    )


class ScorePredictionsParams(StageParams):
    """Predictions of any model, made anywhere, against annotations."""

    model: str = Field(min_length=1, description="A name to stand beside the figures.")
    max_faulty_share: float = Field(ge=0, le=1, description="Share of predictions that may be left out.")
    bootstrap_resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    seed: Seed
    chair: ChairScoring
    pope: PopeScoring
    amber: AmberScoring
    mme: MmeScoring
    captions: CaptionScoring
    object_halbench: HalBenchScoring
    clip_score: ClipScoring

    def files(self) -> dict[str, str]:
        """Every file of the benchmarks that are scored, by its setting."""
        found: dict[str, str] = {}
        for name in self.benchmarks():
            block: StageParams = getattr(self, name)
            for key, value in block.model_dump().items():
                if key in INPUT_FILES:
                    found |= {f"score_predictions.{name}.{where}": path for where, path in _paths(key, value)}
        return found

    def benchmarks(self) -> list[str]:
        """The benchmarks that have predictions, in the order of the parameters."""
        blocks = {name: value for name, value in self if isinstance(value, StageParams)}
        return [name for name, block in blocks.items() if dict(_paths("", getattr(block, "predictions", None)))]


INPUT_FILES = frozenset({"predictions", "instances", "captions", "questions", "annotations", "relation", "safe_words"})


def _paths(key: str, value: Any) -> list[tuple[str, str]]:
    """Settings and paths of one path, several, or several by name."""
    if isinstance(value, dict):
        return [(f"{key}.{name}", path) for name, path in value.items() if path]
    if isinstance(value, str):
        return [(key, value)]
    return [(f"{key}[{place}]", path) for place, path in enumerate(value or ())]
