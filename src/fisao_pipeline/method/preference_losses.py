"""What the comparison trainers minimise: DPO on pairs of responses, the likelihood of chosen responses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.masking import masked_mean, masked_row_means, require_same_shape


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of a batch of pairs and what to watch beside it (scalars).

    Attributes:
        loss: Mean over pairs, nats; log 2 where policy and reference agree.
        reward_margin: Mean of β · margin, by how much the implicit reward of the chosen response is the higher.
        accuracy: Share of pairs whose margin is positive.
    """

    loss: Float[Tensor, ""]
    reward_margin: Float[Tensor, ""]
    accuracy: Float[Tensor, ""]


def dpo_loss(
    chosen_logprobs: Float[Tensor, " p"],
    rejected_logprobs: Float[Tensor, " p"],
    ref_chosen_logprobs: Float[Tensor, " p"],
    ref_rejected_logprobs: Float[Tensor, " p"],
    beta: float,
) -> PreferenceLoss:
    """Direct preference optimisation, a mean over the pairs of the batch.

    margin = (log π(y_w) − log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l))
    loss   = − mean log σ(β · margin)

    Args:
        chosen_logprobs: log π(y_w) of each pair's better response, summed over its tokens, nats.
        rejected_logprobs: log π(y_l) of the worse.
        ref_chosen_logprobs: The same of y_w under the reference.
        ref_rejected_logprobs: The same of y_l.
        beta: β > 0.

    Raises:
        ValueError: If shapes differ, there is no pair, or β is not positive.

    Source: Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), equation 7.
    """
    require_same_shape(
        "dpo_loss",
        chosen_logprobs=chosen_logprobs,
        rejected_logprobs=rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    if beta <= 0:
        raise ValueError(f"dpo_loss: beta must be positive, got {beta}")
    if not chosen_logprobs.numel():
        raise ValueError("dpo_loss: chosen_logprobs holds no pair")
    margin = beta * ((chosen_logprobs - ref_chosen_logprobs) - (rejected_logprobs - ref_rejected_logprobs))
    # logsigmoid and not log(sigmoid): the latter is −inf where a margin is far below zero.
    return PreferenceLoss(
        loss=-torch.nn.functional.logsigmoid(margin).mean(),
        reward_margin=margin.detach().mean(),
        accuracy=(margin.detach() > 0).float().mean(),
    )


def response_logprobs(
    logprobs: Float[Tensor, "b t"], completion_mask: Bool[Tensor, "b t"], length_normalised: bool
) -> Float[Tensor, " b"]:
    """Log π(y) of each response: the sum of its tokens' log-probabilities, or their mean if ``length_normalised``.

    The sum is the probability of the response, and what DPO is derived for. Its margin grows with length; the mean's
    does not.

    Raises:
        ValueError: If the shapes differ or, for the mean, a response has no token.
    """
    require_same_shape("response_logprobs", logprobs=logprobs, completion_mask=completion_mask)
    if length_normalised:
        return masked_row_means(logprobs, completion_mask)
    return torch.where(completion_mask, logprobs, 0.0).sum(dim=1)


def nll_loss(logprobs: Float[Tensor, "b t"], completion_mask: Bool[Tensor, "b t"]) -> Float[Tensor, ""]:
    """Negative log-likelihood of chosen responses, a mean over the tokens of the batch, nats.

    loss = − mean_t log π(y_t)

    Raises:
        ValueError: If the shapes differ or no token counts.

    Source: supervised fine-tuning on the best of K samples, as in RAFT (Dong et al., arXiv 2304.06767), section 3.
    """
    require_same_shape("nll_loss", logprobs=logprobs, completion_mask=completion_mask)
    return -masked_mean(logprobs, completion_mask)
