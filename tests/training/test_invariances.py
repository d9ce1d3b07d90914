"""Every supported architecture at random weights: how rollouts are put into batches changes nothing that is learnt."""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from tests.backbone_zoo import ZOO, Picture, build
from tests.pocket_models import LORA, stir
from tests.smoke_project import PROJECT
from torch.nn.functional import pad

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import PromptBatch
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import RolloutBatch, build_rollouts
from fisao_pipeline.training.sampling import sample_responses
from fisao_pipeline.training.scoring import recomputed_logprobs

PROMPTS = ["Describe this image.", "What?", "Is there a dog in the picture, or is there none?", "What do you see?"]
RESPONSES = 3
ROWS = RESPONSES * len(PROMPTS)
TEMPERATURE = 0.8
CLOSE = {"atol": 2e-5, "rtol": 1e-5}
# The one that packs responses behind their prompt with features of image and prompt, and one that never packs.
FAST = ("instructblip", "qwen2_vl")
open_image = Picture()


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ZOO]
)
def policy(request, tmp_path_factory) -> Policy:
    """With an adapter and a value head that both say something."""
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    torch.manual_seed(0)
    made = stir(Policy.load(ModelSource(str(folder), dtype="float32", device="cpu"), lora=LORA))
    made.add_value_head()
    weight = made.value_head.linear.weight
    weight.data.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture(scope="module")
def rollouts(policy) -> RolloutBatch:
    """Responses that the policy drew, cut to different lengths, with a reward on every third token."""
    prompts = pd.DataFrame(
        {
            "prompt_id": [f"p{number}" for number in range(len(PROMPTS))],
            "image_id": list(Picture.sizes),
            "prompt": PROMPTS,
            "split": "training",
        }
    )
    drawn = sample_responses(policy, prompts, open_image, Decoding(TEMPERATURE, 10), RESPONSES, 6, seed=0)
    for column in ("token_ids", "logprobs", "token_starts", "token_ends"):
        drawn[column] = [row[: 2 + 3 * number % 9] for number, row in enumerate(drawn[column])]
    wave = [
        [(-1.0) ** step if step % 3 == number % 3 else 0.0 for step in range(len(row))]
        for number, row in enumerate(drawn["token_ids"])
    ]
    rewards = pd.DataFrame({"response_id": drawn["response_id"], "token_rewards": wave})
    made = build_rollouts(drawn, prompts, rewards, torch.device("cpu"))
    assert made.completion_mask.sum(dim=1).unique().numel() >= 3
    return made


def padded(batch: PromptBatch, left: int) -> PromptBatch:
    """The prompts with more padding before them."""
    positions = batch.position_ids
    return PromptBatch(
        pad(batch.input_ids, (left, 0), value=5),
        pad(batch.attention_mask, (left, 0), value=False),
        batch.image_features,
        pad(positions, (left, 0)) if positions is not None else None,
    )


@torch.no_grad()
def test_neither_padding_nor_batch_nor_packing_changes_a_logprob_or_a_value(policy, rollouts):
    ids, mask = rollouts.completion_ids, rollouts.completion_mask

    def score(batch, rows, **options):
        return policy.score(batch, ids[rows], mask[rows], TEMPERATURE, **options)

    everyone = list(range(ROWS))
    plain = policy.encode(rollouts.prompts, rollouts.image_ids, open_image)
    assert not plain.attention_mask.all(), "prompts of different lengths"
    expected = score(plain, everyone)
    assert expected[1].abs().max() > 0.1
    texts, images, owner = rollouts.unique_prompts()
    shared = policy.encode(texts, images, open_image)
    wider = torch.cat([ids, torch.full((ROWS, 5), 7)], dim=1)
    wider_mask = torch.cat([mask, torch.zeros(ROWS, 5, dtype=torch.bool)], dim=1)
    backwards = everyone[::-1]
    ways = {
        "more padding on the left": score(padded(plain, 6), everyone),
        "more padding on the right": tuple(
            x[:, : ids.shape[1]] for x in policy.score(plain, wider, wider_mask, TEMPERATURE)
        ),
        "a shared prompt": score(shared, everyone, prompt_of_row=owner),
        "a shared prompt with padding": score(padded(shared, 6), everyone, prompt_of_row=owner),
        "one by one": tuple(
            torch.cat(parts) for parts in zip(*(score(plain.rows([r]), [r]) for r in everyone), strict=True)
        ),
        "another order": tuple(x[backwards] for x in score(plain.rows(backwards), backwards)),
    }
    for way, got in ways.items():
        for what, a, b in zip(("logprobs", "values"), got, expected, strict=True):
            torch.testing.assert_close(a, b, **CLOSE, msg=lambda text, way=way, what=what: f"{way}, {what}: {text}")


def test_micro_batches_and_the_tokenizers_padding_side_change_no_logprob(policy, rollouts, monkeypatch):
    whole = recomputed_logprobs(policy, rollouts, open_image, TEMPERATURE, ROWS)
    for micro in (3, 6):
        for got, expected in zip(
            recomputed_logprobs(policy, rollouts, open_image, TEMPERATURE, micro), whole, strict=True
        ):
            torch.testing.assert_close(got, expected, **CLOSE)
    monkeypatch.setattr(policy.tokenizer, "padding_side", "right")
    again = recomputed_logprobs(policy, rollouts, open_image, TEMPERATURE, ROWS)
    assert all(torch.equal(got, expected) for got, expected in zip(again, whole, strict=True))
    torch.testing.assert_close(whole[0], rollouts.sampled_logprobs, atol=1e-4, rtol=0)


@pytest.fixture
def at_the_start(policy) -> Iterator[None]:
    """Gradients and weights are for others as they were."""
    yield
    policy.model.zero_grad()


@pytest.mark.parametrize("kl_penalty", ["reward", "loss"])
def test_neither_micro_batches_nor_packing_change_loss_or_gradient(
    policy, rollouts, monkeypatch, kl_penalty, at_the_start
):
    packs = policy.shares_prompts
    text = (PROJECT / "conf" / "base" / "parameters_policy_training.yml").read_text(encoding="utf-8")
    configured = OmegaConf.to_container(OmegaConf.create(text))["policy_training"]["ppo"]

    def step(micro: int, packed: bool):
        monkeypatch.setattr(Policy, "shares_prompts", property(lambda self: packed))
        params = PPOParams(
            **{
                **configured,
                "kl_penalty": kl_penalty,
                "kl_coef": 0.3,
                "batch_size": ROWS,
                "micro_batch_size": micro,
                "epochs": 1,
                "max_grad_norm": 1e4,
            }
        )
        fixed = (open_image, TEMPERATURE, params)
        scored = score_rollouts(policy, rollouts, *fixed, params.kl_coef)
        # Old logprobs that are not the present ones: ratio and clipping take part.
        wave = 0.25 * torch.sin(torch.arange(scored.old_logprobs.numel())).view_as(scored.old_logprobs)
        scored = replace(scored, old_logprobs=torch.where(rollouts.completion_mask, scored.old_logprobs + wave, 0.0))
        optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.0)
        numbers = ppo_round(policy, optimizer, scored, *fixed, seed=0)
        return numbers, torch.cat([p.grad.flatten().clone() for p in policy.trainable_parameters()])

    numbers, gradient = step(ROWS, packs)
    assert numbers["clip_fraction"] > 0 and gradient.norm() > 1e-3
    for micro, packed in ((3, packs), (6, False), (6, packs)):
        other_numbers, other_gradient = step(micro, packed)
        for name, value in numbers.items():
            assert other_numbers[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (micro, packed, name)
        assert (other_gradient - gradient).norm() < 1e-4 * gradient.norm(), (micro, packed)
