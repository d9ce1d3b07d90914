"""What a plan is about: the models that a catalog names, and what is missing of all that a run reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fisao_pipeline.models.source import ModelSource

PLAN_SUBJECT = "plan_subject"


@dataclass(frozen=True)
class PlanSubject:
    """What the catalog of an environment names.

    Attributes:
        models: `policy_backbone` and `verifier`, whether they are on this machine or not.
        prompts: Prompts of each split, where they were ingested; before that images of each split, where fractions
            alone deal them; else nothing.
        faults: What a run of all stages would miss, each with what to do about it.
    """

    models: Mapping[str, ModelSource]
    prompts: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
