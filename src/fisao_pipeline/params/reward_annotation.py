"""Parameters of `reward_annotation`."""

from __future__ import annotations

from string import Formatter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from fisao_pipeline.params.base import Seed, StageParams


class FixedBaseline(StageParams):
    """A baseline from parameters, for ``calibration: fixed``: cosines, a prior probability and the sentence scores."""

    correct_mean: float = Field(ge=-1, le=1)
    hallucinated_mean: float = Field(ge=-1, le=1)
    std: float = Field(gt=0, le=1)
    mixing_weight: float = Field(gt=0, lt=1)
    sentence_mean: float = Field(ge=-1, le=1)
    sentence_std: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _correct_scores_higher(self) -> FixedBaseline:
        if self.correct_mean <= self.hallucinated_mean:
            raise ValueError(
                f"correct_mean {self.correct_mean:g} must exceed hallucinated_mean {self.hallucinated_mean:g}"
            )
        return self


class ContrastParams(StageParams):
    """Which mentions and words ``calibration: contrast`` takes for correct and for hallucinated."""

    agreement: float = Field(
        gt=0.5, le=1, description="Share of a prompt's samples that name an object for it to count as correct."
    )
    absent_words: int = Field(ge=1, le=80, description="Words per image that no sample names; each costs one text.")
    seed: Seed = Field(description="Of the choice of absent words.")


class RewardAnnotationParams(StageParams):
    """From responses to token rewards: what counts as an object, how it is scored and what the score pays."""

    vocabulary: str = Field(min_length=1, description="`coco`, `coco+common`, or the path of a vocabulary file.")
    template: str = Field(description="Text around a mention that the verifier scores.")
    score_words: Literal["category", "written"] = Field(
        description="What stands in the template for a mention: its category's name, or its words as written."
    )
    calibration: Literal["annotated", "mixture", "contrast", "fixed"] = Field(
        description="Where the baseline comes from."
    )
    contrast: ContrastParams
    fixed_baseline: FixedBaseline | None = Field(description="The baseline when calibration is `fixed`.")
    min_mentions: int = Field(ge=2, description="Mentions that a calibration (each of its classes) must rest on.")
    granularity: Literal["token", "phrase", "sentence"] = Field(
        description="Reward per object mention scored by name, or with the words that describe it, or one per response."
    )
    phrase_words: int = Field(ge=1, le=10, description="Describing words of a mention at most, used by `phrase`.")
    paid_by: Literal["verifier", "annotations"] = Field(
        description="What pays a mention: the verifier's score, or its label, as a verifier that never errs would."
    )
    rule: Literal["margin", "midpoint", "posterior"] = Field(description="What a score pays; see docs/method.md.")
    margin: float = Field(ge=0, le=1, description="Margin λ of the rule `margin`, in cosine units.")
    false_mention_cost: float = Field(ge=1, description="Cost c of a false mention in the rule `posterior`.")
    repeat_penalty: float = Field(ge=0, description="Fine for naming a category again; repeats never earn.")
    min_auroc: float = Field(ge=0.5, le=1, description="Below it a warning says that training may do harm.")

    @property
    def scored_modifiers(self) -> int:
        """Words before a mention that are scored with it, at most."""
        return self.phrase_words if self.granularity == "phrase" else 0

    @field_validator("template")
    @classmethod
    def _one_place_for_the_mention(cls, template: str) -> str:
        try:
            fields = [field for _, *field in Formatter().parse(template) if field[0] is not None]
        except ValueError as problem:
            raise ValueError(f"template {template!r} does not format: {problem}") from None
        if fields != [["", "", None]]:
            raise ValueError(f"template {template!r} must hold exactly one {{}} and no other field")
        return template

    @model_validator(mode="after")
    def _fixed_needs_a_baseline(self) -> RewardAnnotationParams:
        if self.calibration == "fixed" and self.fixed_baseline is None:
            raise ValueError("calibration `fixed` needs fixed_baseline")
        return self

    @model_validator(mode="after")
    def _labels_pay_mentions(self) -> RewardAnnotationParams:
        if self.paid_by == "annotations" and self.granularity == "sentence":
            raise ValueError("paid_by `annotations` pays mentions: set granularity to `token` or `phrase`")
        return self
