"""Which prompts leave room for an answer in the policy's context."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from fisao_pipeline.models.policy import Policy


def prompts_that_fit(
    policy: Policy,
    prompts: pd.DataFrame,
    manifest: pd.DataFrame,
    new_tokens: int,
    stage: str,
    needed: Collection[str] = (),
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Tell the prompts that can be answered from those that are too long; a policy without a limit can answer all.

    A prompt fits if its tokens, those of its image and ``new_tokens`` are no more than the policy's context.

    Args:
        policy: Whose processor and context count; no image is opened and no model is run.
        prompts: Rows with ``prompt_id``, ``image_id``, ``prompt``, ``split``.
        manifest: Rows with ``image_id``, ``width``, ``height``.
        new_tokens: Longest answer, in tokens.
        stage: Whose ``max_new_tokens`` that is, for the message.
        needed: Splits that must not lose all their prompts.

    Returns:
        The prompts that fit, and for each other one's id the reason.

    Raises:
        ValueError: A needed split has prompts and none of them fits.
    """
    limit = policy.encode.context_tokens
    if limit is None or prompts.empty:
        return prompts, {}
    counts = token_counts(policy, prompts, manifest)
    fits = [count + new_tokens <= limit for count in counts]
    _require_some(prompts, fits, counts, limit, new_tokens, stage, needed)
    reasons = {
        prompt_id: f"prompt too long: {count} tokens with its image, and {new_tokens} of the answer, exceed the "
        f"policy's context of {limit}"
        for prompt_id, count, fit in zip(prompts["prompt_id"], counts, fits, strict=True)
        if not fit
    }
    return prompts[fits].reset_index(drop=True), reasons


def token_counts(policy: Policy, prompts: pd.DataFrame, manifest: pd.DataFrame) -> list[int]:
    """Tokens of each prompt with its image, which is not opened; tables as in ``prompts_that_fit``."""
    sizes = dict(zip(manifest["image_id"], zip(manifest["width"], manifest["height"], strict=True), strict=True))
    return policy.encode.count_tokens(prompts["prompt"].tolist(), [sizes[i] for i in prompts["image_id"]])


def _require_some(
    prompts: pd.DataFrame,
    fits: list[bool],
    counts: list[int],
    limit: int,
    new_tokens: int,
    stage: str,
    needed: Collection[str],
) -> None:
    shortest = pd.Series(counts, index=prompts.index).groupby(prompts["split"]).min()
    for split in sorted(set(needed) & set(shortest.index) - set(prompts.loc[fits, "split"])):
        raise ValueError(
            f"{stage}: no prompt of the split {split!r} leaves room for an answer: the policy's context is {limit} "
            f"tokens, the shortest prompt takes {shortest[split]} with its image and {stage}.max_new_tokens is "
            f"{new_tokens}. Lower {stage}.max_new_tokens, give shorter prompts (raw_prompts, or "
            "image_ingestion.template_prompt), or a policy_backbone with a longer context"
        )
