"""Rollouts of untrained pocket models for tests of the trainers that learn from chosen responses."""

import pandas as pd
import torch
from tests.pocket_models import PocketWorld

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.training.learning import RoundData
from fisao_pipeline.training.rollouts import RolloutBatch

TEMPERATURE = 0.9
STEPS = {
    "learning_rate": 1e-3,
    "anneal_to": 0.5,
    "weight_decay": 0.0,
    "max_grad_norm": 1000.0,
    "epochs": 1,
    "batch_size": 4,
    "micro_batch_size": 4,
}
LENGTHS = [8, 3, 5, 8, 1, 6, 7, 2]


def round_data(world: PocketWorld, policy: Policy, rewards: list[float], index: int = 0) -> RoundData:
    """Two sampled completions of each of four prompts, of different lengths, one reward each."""
    prompts = world.prompts.head(4)
    batch = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image)
    torch.manual_seed(index)
    drawn = policy.sample(batch, Decoding(TEMPERATURE, 8), 2)
    lengths = torch.tensor(LENGTHS).clamp(max=drawn.mask.sum(dim=1))
    mask = torch.arange(drawn.ids.shape[1]) < lengths[:, None]
    token_rewards = torch.zeros(mask.shape)
    token_rewards[:, 0] = torch.tensor(rewards)
    rollouts = RolloutBatch(
        [p for p in prompts["prompt"] for _ in range(2)],
        [i for i in prompts["image_id"] for _ in range(2)],
        torch.where(mask, drawn.ids, 0),
        mask,
        torch.where(mask, drawn.logprobs, 0.0),
        token_rewards,
    )
    return RoundData(index, 7, pd.DataFrame({"image_id": rollouts.image_ids}), rollouts)


def scored(world: PocketWorld, policy: Policy, rollouts: RolloutBatch, reference: bool = False) -> torch.Tensor:
    """Log π of each token, prompts not shared and nothing split: [b, t]."""
    batch = policy.encode(rollouts.prompts, rollouts.image_ids, world.open_image)
    return policy.score(batch, rollouts.completion_ids, rollouts.completion_mask, TEMPERATURE, reference)[0]


def gradient(policy: Policy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.trainable_parameters()]
