"""Parameters of `policy_training` and of its trainers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fisao_pipeline.params.base import Seed, StageParams
from fisao_pipeline.params.lora import LoraParams


class OptimiserParams(StageParams):
    """Steps of one round, the same for every trainer."""

    learning_rate: float = Field(gt=0)
    anneal_to: float = Field(ge=0, le=1, description="Share of the learning rate left in the last round (linear).")
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    epochs: int = Field(ge=1, description="Passes over what a round learns from.")
    batch_size: int = Field(ge=1, description="Responses (`dpo`: pairs) per optimiser step.")
    micro_batch_size: int = Field(
        ge=1,
        description="Responses (`dpo`: pairs) per forward pass; memory only. Those of a prompt share it, so that fewer "
        "than response_sampling.responses_per_prompt compute it several times.",
    )

    @model_validator(mode="after")
    def _micro_batches_fill_batches(self) -> OptimiserParams:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class PPOParams(OptimiserParams):
    """One PPO round: advantages, losses, optimiser."""

    advantage: Literal["gae", "batch", "group"] = Field(
        description="`gae` with a value head; return-to-go minus the batch mean, or minus the mean of the group."
    )
    gamma: float = Field(ge=0, le=1, description="Discount per token.")
    gae_lambda: float = Field(ge=0, le=1, description="λ of GAE; used by `gae` only.")
    normalise_advantages: bool = Field(description="Divide advantages by their spread over the batch.")
    clip_range: float = Field(gt=0, lt=1, description="ε of the clipped ratio.")
    value_clip_range: float | None = Field(
        gt=0, description="Reward units that a value may move in a round; null leaves it free. Used by `gae` only."
    )
    vf_coef: float = Field(ge=0, description="Weight of the value loss; used by `gae` only.")
    value_width: int | None = Field(gt=0, description="Hidden layer of the value head; null for a linear one (`gae`).")
    value_learning_rate: float | None = Field(gt=0, description="Of the value head (`gae`); null for the adapter's.")
    kl_penalty: Literal["reward", "loss"] = Field(
        description="Where the KL to the reference is: taken off each token's reward (k1), or a loss of its own (k2)."
    )
    kl_coef: float = Field(ge=0, description="β of the KL penalty; the first value when adaptive.")
    kl_target_nats: float | None = Field(gt=0, description="KL per response to steer β towards; null keeps β fixed.")
    unlikely_below: float = Field(gt=0, lt=1, description="Reference probability below which a token is fined.")
    unlikely_cost: float = Field(ge=0, description="That fine, in reward units; 0 is none.")
    max_round_kl_nats: float | None = Field(gt=0, description="Ends a round early: KL per token to its own start.")
    logprob_tolerance: float = Field(gt=0, description="Nats that a cached logprob may differ from the recomputed one.")
    # It came later; see BenchmarkEvaluationParams.
    importance_cap: float = Field(
        default=2.0, ge=1, description="Largest weight of a token that another engine drew; used with a sampler `vllm`."
    )


class DPOParams(OptimiserParams):
    """One round of direct preference optimisation, on pairs among the responses of each prompt."""

    beta: float = Field(gt=0, description="β, strength of the pull to the reference; larger stays nearer.")
    ranked_by: Literal["rewards", "annotations"] = Field(
        description="By summed token rewards, or by the labels: correct minus false mentions."
    )
    pairs_per_prompt: int = Field(ge=1, description="At most; those of the widest gap.")
    min_gap: float = Field(ge=0, description="A pair's scores differ by more than this; ties never make a pair.")
    length_normalised: bool = Field(description="Means of log-probabilities per token in place of their sums.")


class RejectionSamplingParams(OptimiserParams):
    """One round of supervised fine-tuning on the best response of each prompt, by summed token rewards."""

    min_gap: float = Field(ge=0, description="By more than this the best beats the worst, or the prompt is left out.")


class PolicyTrainingParams(StageParams):
    """The training loop: rounds, adapter, trainer, and the probe that picks the round to keep."""

    rounds: int = Field(ge=1, description="Times that sample, annotate, train is repeated.")
    trainer: Literal["ppo", "dpo", "rejection_sampling"] = Field(
        description="What a round's rollouts are learnt from with; `ppo` is the method, the others its comparisons."
    )
    lora: LoraParams
    ppo: PPOParams
    dpo: DPOParams
    rejection_sampling: RejectionSamplingParams
    probe_prompts: int = Field(ge=0, description="Probe prompts answered after each round; 0 keeps the last.")
    keep: Literal["best", "last"] = Field(
        description="The round whose adapter is kept: best on the probe, or the last."
    )
    seed: Seed = Field(description="Of the fresh adapter, of shuffling and, by round, of sampling.")
    # It came later; see BenchmarkEvaluationParams.
    checkpoint_every_steps: int = Field(
        default=20, ge=1, description="Optimiser steps between checkpoints; a run that is killed loses no more."
    )
