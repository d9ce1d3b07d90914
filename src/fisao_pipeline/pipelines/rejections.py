"""How nodes put aside prompts that the policy cannot answer: listed with the reason, never dropped in silence."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from fisao_pipeline.ingestion.rejections import Rejection, rejections_table

if TYPE_CHECKING:
    from fisao_pipeline.models.policy import Policy


def set_aside_long_prompts(
    policy: Policy,
    prompts: pd.DataFrame,
    image_manifest: pd.DataFrame,
    new_tokens: int,
    stage: str,
    needed: Collection[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The prompts that fit the policy's context, and the others as rejections; see ``training.context``."""
    from fisao_pipeline.training.context import prompts_that_fit  # noqa: PLC0415 - slow to import

    fitting, reasons = prompts_that_fit(policy, prompts, image_manifest, new_tokens, stage, needed)
    return fitting, rejections_table(Rejection("prompt", name, reason) for name, reason in reasons.items())
