"""Checkpointed layers still sample: they take no key-value cache while they checkpoint."""

import pytest
import torch
from tests.pocket_models import PocketWorld, build_pocket_models, stir

from fisao_pipeline.models.checkpointing import checkpoint_activations, without_checkpointing
from fisao_pipeline.models.decoding import Decoding


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> PocketWorld:
    return PocketWorld.make(build_pocket_models(tmp_path_factory.mktemp("models")))


@pytest.mark.parametrize(
    ("decoding", "copies"),
    [(Decoding(1.0, 12), 3), (Decoding(0.0, 12), 1), (Decoding(0.0, 12, num_beams=2), 1)],
    ids=["sampled", "greedy", "beam"],
)
def test_the_same_tokens_are_drawn(world, decoding, copies):
    policy = stir(world.policy())
    batch = world.batch(policy, 3)
    drawn = []
    for checkpointing in (False, True):
        if checkpointing:
            checkpoint_activations(policy.backbone)
        torch.manual_seed(0)
        drawn.append(policy.sample(batch, decoding, copies))
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    assert torch.equal(drawn[0].logprobs, drawn[1].logprobs)


def test_their_logprobs_are_those_of_scoring(world):
    policy = stir(world.policy())
    checkpoint_activations(policy.backbone)
    batch = world.batch(policy, 3)
    drawn = policy.sample(batch, Decoding(1.0, 12), 2)
    with torch.no_grad():
        scored, _ = policy.score(batch, drawn.ids, drawn.mask, 1.0, prompt_of_row=[n // 2 for n in range(6)])
    torch.testing.assert_close(drawn.logprobs, scored, atol=1e-4, rtol=0)


def test_they_checkpoint_again_afterwards(world):
    policy = stir(world.policy())
    layers = checkpoint_activations(policy.backbone)

    def in_training() -> int:
        return sum(module.training for module in policy.backbone.modules())

    assert in_training() == layers
    with pytest.raises(RuntimeError, match="stop"), without_checkpointing(policy.backbone):
        assert in_training() == 0
        raise RuntimeError("stop")
    assert in_training() == layers
