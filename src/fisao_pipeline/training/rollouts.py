"""Rollouts: sampled responses with their token rewards, as tensors that trainers read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutBatch:
    """Many rollouts, completions padded on the right; copies of a prompt adjacent.

    Attributes:
        prompts: Prompt texts, one a rollout.
        image_ids: One an image, one a rollout.
        completion_ids: Sampled tokens, [b, t].
        completion_mask: True on sampled tokens, [b, t].
        sampled_logprobs: log π_old as the sampler recorded it, nats, [b, t], zero off the mask.
        token_rewards: Reward of each token, [b, t], zero off the last token of each mention.
    """

    prompts: Sequence[str]
    image_ids: Sequence[str]
    completion_ids: Int[Tensor, "b t"]
    completion_mask: Bool[Tensor, "b t"]
    sampled_logprobs: Float[Tensor, "b t"]
    token_rewards: Float[Tensor, "b t"]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def groups(self) -> list[range]:
        """Rows of each prompt's rollouts: runs of equal prompt and image."""
        pairs = list(zip(self.image_ids, self.prompts, strict=True))
        starts = [row for row in range(len(pairs)) if row == 0 or pairs[row] != pairs[row - 1]]
        return [range(a, b) for a, b in pairwise([*starts, len(pairs)])]

    @property
    def group_size(self) -> int:
        """K, the same for every prompt.

        Raises:
            ValueError: If prompts have different numbers of rollouts.
        """
        sizes = {len(group) for group in self.groups}
        if len(sizes) != 1:
            raise ValueError(
                f"policy_training: prompts have {sorted(sizes)} responses each, and a group baseline needs one number: "
                "re-run response_sampling, or set policy_training.ppo.advantage to `gae` or `batch`"
            )
        return sizes.pop()

    def unique_prompts(self) -> tuple[list[str], list[str], list[int]]:
        """Prompt texts and image ids without repetition, and for each rollout the row of its prompt among them."""
        pairs = list(zip(self.prompts, self.image_ids, strict=True))
        row_of = {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
        return [p for p, _ in row_of], [i for _, i in row_of], [row_of[pair] for pair in pairs]

    def rows(self, index: Sequence[int]) -> RolloutBatch:
        """The given rollouts, without the columns that are padding in all of them."""
        index = list(index)
        width = max(1, int(self.completion_mask[index].sum(dim=1).max()))
        cut = {f.name: getattr(self, f.name)[index][:, :width] for f in fields(self)[2:]}
        return replace(
            self, prompts=[self.prompts[i] for i in index], image_ids=[self.image_ids[i] for i in index], **cut
        )


def nonempty_responses(responses: pd.DataFrame) -> pd.DataFrame:
    """The responses with a token, which are those that become rollouts; says how many have none."""
    has_tokens = responses["token_ids"].str.len() > 0
    if not has_tokens.all():
        logger.warning(
            "policy_training: %d of %d responses hold no token and are left out (%s, for example): re-run "
            "response_sampling if the policy is not meant to be silent.",
            int((~has_tokens).sum()),
            len(responses),
            responses.loc[~has_tokens, "response_id"].iloc[0],
        )
    return responses[has_tokens]


def build_rollouts(
    responses: pd.DataFrame, prompts: pd.DataFrame, token_rewards: pd.DataFrame, device: torch.device
) -> RolloutBatch:
    """Join responses, their prompts and their rewards into tensors; responses of zero tokens are left out.

    Raises:
        ValueError: If nothing is left, a response has no prompt or rewards, lengths differ or a reward or logprob is
            not finite.
    """
    responses = nonempty_responses(responses)
    if responses.empty:
        raise ValueError(
            "policy_training: all responses are empty: re-run response_sampling, with a higher "
            "response_sampling.max_new_tokens or another policy_backbone if they are empty again"
        )
    texts = prompts.set_index("prompt_id")["prompt"]
    rewards = token_rewards.set_index("response_id")["token_rewards"]
    for name, ids, known in (
        ("prompt", responses["prompt_id"], texts.index),
        ("token rewards", responses["response_id"], rewards.index),
    ):
        if not ids.isin(known).all():
            stray = ids[~ids.isin(known)].iloc[0]
            raise ValueError(
                f"policy_training: no {name} for {stray!r}: responses, prompts and token_rewards are of different "
                "runs; re-run from response_sampling on"
            )
    columns = {
        "completion_ids": [torch.tensor(list(row)) for row in responses["token_ids"]],
        "sampled_logprobs": [_floats(row) for row in responses["logprobs"]],
        "token_rewards": [_floats(row) for row in rewards[responses["response_id"]]],
    }
    lengths = {name: [len(row) for row in rows] for name, rows in columns.items()}
    if lengths["token_rewards"] != lengths["completion_ids"]:
        raise ValueError("policy_training: token_rewards and responses differ in length; re-run reward_annotation")
    padded = {
        name: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device) for name, rows in columns.items()
    }
    for name, what, remedy in (
        ("token_rewards", "token reward", "reward_annotation, and look at the verifier if it comes again"),
        ("sampled_logprobs", "logprob", "response_sampling, and load the backbone in float32 if it comes again"),
    ):
        if not torch.isfinite(padded[name]).all():
            bad = int((~torch.isfinite(padded[name])).any(dim=1).float().argmax())
            raise ValueError(
                f"policy_training: a {what} of response {responses['response_id'].iloc[bad]!r} is NaN or infinite; "
                f"re-run {remedy}"
            )
    counts = torch.tensor(lengths["completion_ids"], device=device)
    positions = torch.arange(padded["completion_ids"].shape[1], device=device)
    return RolloutBatch(
        prompts=texts[responses["prompt_id"]].tolist(),
        image_ids=responses["image_id"].tolist(),
        completion_mask=positions < counts[:, None],
        **padded,
    )


def _floats(row: Iterable[float | None]) -> Tensor:
    """Parquet may give a NaN within a list back as null."""
    return torch.tensor([math.nan if value is None else value for value in row], dtype=torch.float32)
