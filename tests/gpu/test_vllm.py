"""vLLM itself beside the pocket LLaVA in bfloat16: it samples, its logprobs are the trainer's, the adapter counts."""

import pytest
import torch
from tests.gpu.test_cuda import SHIPPED, needs_gpu, policy_on, source
from tests.pocket_models import LORA, PocketWorld, stir

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.sampling import sampling_engine

pytest.importorskip("vllm")
pytestmark = [pytest.mark.gpu, needs_gpu, pytest.mark.timeout(900)]

SAMPLING = ResponseSamplingParams(
    responses_per_prompt=3,
    temperature=0.8,
    max_new_tokens=24,
    prompts_per_round=8,
    calibration_prompts=4,
    batch_size=24,
    seed=0,
    sampler="vllm",
    engine_memory=0.3,
)
DRAWN = Decoding(SAMPLING.temperature, SAMPLING.max_new_tokens)
# Nats between two ways to compute in bfloat16: in the mean over tokens, and of any token.
MEAN_GAP, LARGEST_GAP = 0.05, 0.5


@pytest.fixture(scope="module")
def world() -> PocketWorld:
    return PocketWorld.make(SHIPPED, 8)


@pytest.fixture(scope="module")
def policy(world):
    """With an adapter that was trained, so to say, and its engine."""
    policy = policy_on("cuda", "bfloat16")
    backbone = source("pocket_vlm", "bfloat16", "cuda")
    with sampling_engine(policy, backbone, SAMPLING, world.prompts, world.manifest, LORA.rank):
        yield policy


def draw(world, policy, decoding=DRAWN, copies=SAMPLING.responses_per_prompt, seed=1, reference=False):
    asked = (world.prompts["prompt"].tolist(), world.prompts["image_id"].tolist(), world.open_image)
    return policy.sample_prompts(*asked, decoding, copies, seed, reference)


@torch.no_grad()
def gaps(world, policy, drawn, reference=False):
    copies = SAMPLING.responses_per_prompt
    owners = [row // copies for row in range(len(drawn.ids))]
    batch = world.batch(policy, len(world.prompts))
    scored, _ = policy.score(batch, drawn.ids, drawn.mask, DRAWN.temperature, reference, prompt_of_row=owners)
    return (scored - drawn.logprobs)[drawn.mask].abs()


@pytest.mark.parametrize("reference", [False, True])
def test_its_logprobs_are_the_trainers_with_the_adapter_and_without(world, policy, reference):
    drawn = draw(world, policy, reference=reference)
    assert len(drawn.ids) == 8 * SAMPLING.responses_per_prompt and drawn.mask.any(dim=1).all()
    texts, _ = policy.decode(drawn.ids, drawn.mask)
    assert len(set(texts)) > 8, "copies of a prompt differ"
    found = gaps(world, policy, drawn, reference)
    assert found.mean() < MEAN_GAP and found.max() < LARGEST_GAP


def test_an_adapter_that_moves_changes_answers_and_logprobs(world, policy):
    greedy = Decoding(0.0, SAMPLING.max_new_tokens)
    before, sampled = draw(world, policy, greedy, copies=1), draw(world, policy)
    state = {name: tensor.clone() for name, tensor in policy.trainable_state().items()}
    try:
        stir(policy, scale=0.3, seed=9)
        after = draw(world, policy, greedy, copies=1)
        assert policy.decode(after.ids, after.mask)[0] != policy.decode(before.ids, before.mask)[0]
        assert gaps(world, policy, sampled).mean() > MEAN_GAP, "another policy is told from this one"
        found = gaps(world, policy, draw(world, policy))
        assert found.mean() < MEAN_GAP and found.max() < LARGEST_GAP
    finally:
        policy.load_trainable_state(state)
