"""Memory that runs out halves what is done at once: the results are those of the half from the start."""

import logging

import pandas as pd
import pytest
import torch
from tests.pocket_models import stir
from tests.training.test_dpo import params as dpo_params
from tests.training.test_ppo import params as ppo_params_of

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.params.policy_training import PPOParams
from fisao_pipeline.training import sampling as sampling_module
from fisao_pipeline.training.evaluation import lowest_base_logprobs
from fisao_pipeline.training.learning import micro_batch, supervised_steps
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import RolloutBatch
from fisao_pipeline.training.sampling import sample_responses
from fisao_pipeline.training.scoring import recomputed_logprobs

DECODING = Decoding(1.0, 6)
TEMPERATURE = 0.9


class SmallCard:
    """Runs out of memory in each call with more than `most` rows of an argument, as a card would: half way through."""

    def __init__(self, monkeypatch, target, name, most, rows):
        self.calls, self.refused = 0, 0
        whole = getattr(target, name)

        def call(*arguments, **options):
            self.calls += 1
            result = whole(*arguments, **options)
            if rows(*arguments, **options) > most:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return result

        monkeypatch.setattr(target, name, call)


def roll_out(world, policy) -> RolloutBatch:
    """Two completions of each of four prompts, all of full length but one."""
    prompts = world.prompts.head(4)
    batch = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image)
    torch.manual_seed(0)
    drawn = policy.sample(batch, Decoding(TEMPERATURE, 6), 2)
    rewards = torch.where(drawn.mask & (drawn.ids % 3 == 0), 1.0, 0.0)
    texts, images = ([value for value in prompts[name] for _ in range(2)] for name in ("prompt", "image_id"))
    return RolloutBatch(texts, images, drawn.ids, drawn.mask, drawn.logprobs, rewards)


def ppo_params(**changes) -> PPOParams:
    return ppo_params_of(epochs=2, batch_size=8, **changes)


# --- the size ------------------------------------------------------------------------------------------------------


def test_without_an_error_it_is_called_once_with_the_setting():
    sizes = []
    assert HalvingSize(6, "x.size", "", "").run(lambda size: sizes.append(size) or "done") == "done"
    assert sizes == [6]


def test_it_is_halved_until_it_fits_and_stays_so(caplog):
    size = HalvingSize(24, "x.size", "Nothing changes.", "")

    def attempt(count):
        if count > 6:
            raise torch.OutOfMemoryError("no room")
        return count

    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert size.run(attempt) == 6
        assert size.run(attempt) == 6
    assert [record.getMessage().split(".")[0:2] for record in caplog.records] == [
        ["Out of GPU memory with x", "size 24: going on with 12"],
        ["Out of GPU memory with x", "size 12: going on with 6"],
    ]
    assert "Nothing changes. Set it so" in caplog.text


def test_at_the_smallest_size_the_error_says_what_to_change():
    def never(_count):
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    size = HalvingSize(8, "x.size", "", "Buy memory.")
    said = r"x\.size 3\)\. Buy memory\..*--pipelines=plan.*tried to allocate 2 GiB"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        size.run(never, smallest=3)


def test_what_the_failed_attempt_held_is_free_before_the_next():
    import weakref

    held = []

    def attempt(count):
        if held:
            assert held[0]() is None, "the tensors of the attempt before are still there"
        big = torch.zeros(10)
        held.append(weakref.ref(big))
        if count > 1:
            raise torch.OutOfMemoryError("no room")
        return count

    assert HalvingSize(2, "x.size", "", "").run(attempt) == 1
    assert len(held) == 2


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"):
        HalvingSize(2, "x.size", "", "").run(lambda _size: (_ for _ in ()).throw(RuntimeError("shape")))


# --- PPO -----------------------------------------------------------------------------------------------------------


def ppo_weights(world, micro, watch=lambda: None, **changes):
    policy = stir(world.policy())
    policy.add_value_head()
    params = ppo_params(micro_batch_size=micro, advantage="gae", **changes)
    rollouts = roll_out(world, policy)
    scored = score_rollouts(policy, rollouts, world.open_image, TEMPERATURE, params, 0.1, micro_batch(params, "ppo"))
    optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-2)
    watch()
    step = ppo_round(policy, optimizer, scored, world.open_image, TEMPERATURE, params, seed=0)
    return step, [p.detach().clone() for p in policy.trainable_parameters()]


@pytest.mark.parametrize("most", [4, 2, 1])
def test_ppo_takes_the_steps_of_the_half_micro_batch(world, monkeypatch, caplog, most):
    from fisao_pipeline.training import ppo as module

    # Scored alike: what is compared is the steps.
    monkeypatch.setattr(module, "recomputed_logprobs", lambda *a: recomputed_logprobs(*a[:4], 2))
    wanted_step, wanted = ppo_weights(world, most)
    card = None

    def watch():
        nonlocal card
        card = SmallCard(monkeypatch, module, "_micro_batch_loss", most, lambda _p, _s, rows, *_a: len(rows))

    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        step, weights = ppo_weights(world, 8, watch)
    assert card.refused == {4: 1, 2: 2, 1: 3}[most] == caplog.text.count("going on with")
    assert f"policy_training.ppo.micro_batch_size {2 * most}: going on with {most}" in caplog.text
    assert step == wanted_step
    assert all(torch.equal(a, b) for a, b in zip(weights, wanted, strict=True))


def test_memory_that_runs_out_half_way_through_a_step_leaves_no_gradient_behind(world, monkeypatch):
    """The last of a step's micro-batches fails once: what the others had added is not counted twice."""
    from fisao_pipeline.training import ppo as module

    monkeypatch.setattr(module, "recomputed_logprobs", lambda *a: recomputed_logprobs(*a[:4], 2))
    wanted = ppo_weights(world, 2)[1]
    calls = 0
    whole = module._micro_batch_loss

    def second_call_fails(*arguments):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("no room")
        return whole(*arguments)

    weights = ppo_weights(world, 4, lambda: monkeypatch.setattr(module, "_micro_batch_loss", second_call_fails))[1]
    # Two of size 4, the second refused; then per epoch four of size 2.
    assert calls == 2 + 4 + 4
    assert all(torch.equal(a, b) for a, b in zip(weights, wanted, strict=True))


def test_ppo_ends_where_not_even_one_response_fits(world, monkeypatch):
    from fisao_pipeline.training import ppo as module

    def watch():
        SmallCard(monkeypatch, module, "_micro_batch_loss", 0, lambda _p, _s, rows, *_a: len(rows))

    said = r"policy_training\.ppo\.micro_batch_size 1\).*gradient_checkpointing.*max_new_tokens"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        ppo_weights(world, 8, watch)


def test_scoring_is_that_of_the_half(world, monkeypatch):
    policy = stir(world.policy())
    rollouts = roll_out(world, policy)
    wanted = recomputed_logprobs(policy, rollouts, world.open_image, TEMPERATURE, 4)
    micro = micro_batch(ppo_params(micro_batch_size=8), "ppo")
    card = SmallCard(monkeypatch, policy, "score", 4, lambda _b, ids, *_a, **_o: len(ids))
    found = recomputed_logprobs(policy, rollouts, world.open_image, TEMPERATURE, micro)
    assert card.refused == 1 and micro.size == 4
    SmallCard(monkeypatch, policy, "score", 1, lambda _b, ids, *_a, **_o: len(ids))
    alone = recomputed_logprobs(policy, rollouts, world.open_image, TEMPERATURE, micro)
    assert micro.size == 1, "a prompt's two responses do not fit, each alone does"
    for one, both in zip(alone, wanted, strict=True):
        torch.testing.assert_close(one, both, atol=1e-5, rtol=0)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# --- the other trainers --------------------------------------------------------------------------------------------


class Squares:
    """(w - item)² over items, with an objective's words."""

    trainer = "dpo"

    def __init__(self, weight, most):
        self.w, self.most, self.refused = weight, most, 0

    def length(self, item):
        return item

    def weight(self, part):
        return len(part)

    def loss(self, part):
        loss = ((self.w - torch.tensor(part, dtype=torch.float32)) ** 2).mean()
        if len(part) > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("no room")
        return loss, {"loss": float(loss.detach())}


def test_other_trainers_take_the_steps_of_the_half(caplog):
    def run(micro, most):
        head = torch.nn.Linear(1, 1, bias=False)
        head.weight.data.fill_(0.5)

        class Holder:
            def trainable_parameters(self):
                return list(head.parameters())

        params = dpo_params(batch_size=8, micro_batch_size=micro, epochs=2)
        objective = Squares(head.weight, most)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
        steps: list[dict[str, float]] = []
        supervised_steps(Holder(), optimizer, list(range(16)), objective, params, 0, steps.append)
        return head.weight.item(), steps, objective.refused

    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        found = run(8, 2)
    assert "policy_training.dpo.micro_batch_size 4: going on with 2" in caplog.text
    assert found[2] == 2
    assert found[:2] == run(2, 2)[:2]


# --- sampling, evaluation, verifier --------------------------------------------------------------------------------


def sample(world, policy, batch_size, seed=0, **options):
    return sample_responses(policy, world.prompts, world.open_image, DECODING, 2, batch_size, seed, **options)


@pytest.mark.parametrize("fails_at", [0, 2])
def test_sampling_is_that_of_the_half_wherever_memory_ran_out(world, monkeypatch, caplog, fails_at):
    wanted = sample(world, stir(world.policy()), 8)
    policy = stir(world.policy())
    assert not sample(world, policy, 16, setting="other.size")["text"].equals(wanted["text"])
    whole, calls = policy.sample, 0

    def once(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == fails_at + 1:
            raise torch.OutOfMemoryError("no room")
        return whole(*arguments, **options)

    monkeypatch.setattr(policy, "sample", once)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        found = sample(world, policy, 16)
    pd.testing.assert_frame_equal(found, wanted)
    assert torch.equal(torch.get_rng_state(), state)
    assert "response_sampling.batch_size 16: going on with 8. Another size draws other samples" in caplog.text
    before = calls
    pd.testing.assert_frame_equal(sample(world, policy, 16), wanted)
    assert calls - before == 6, "later calls begin with the half: 48 responses in six batches"
    assert sampling_module._SIZES[policy]["response_sampling.batch_size", 16].size == 8


def test_sampling_does_not_go_below_one_prompts_responses(world, monkeypatch):
    policy = stir(world.policy())
    SmallCard(monkeypatch, policy, "sample", 0, lambda batch, *_a: len(batch))
    with pytest.raises(torch.OutOfMemoryError, match=r"response_sampling\.batch_size 2\).*max_new_tokens"):
        sample(world, policy, 16)


def test_the_evaluations_likelihoods_are_halved_too(world, monkeypatch, caplog):
    policy = stir(world.policy())
    responses = sample(world, policy, 48)
    wanted = lowest_base_logprobs(policy, responses, world.prompts, world.open_image, 12)
    SmallCard(monkeypatch, policy, "score", 12, lambda _b, ids, *_a, **_o: len(ids))
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        found = lowest_base_logprobs(policy, responses, world.prompts, world.open_image, 24)
    assert found == wanted
    assert "benchmark_evaluation.batch_size 24: going on with 12" in caplog.text


def test_the_verifier_embeds_in_halves(world, monkeypatch, caplog):
    images = world.prompts["image_id"].tolist()
    texts = ["a photo of a dog"] * len(images)
    whole = world.verifier()
    wanted = whole.score(images, texts, world.open_image)
    halved = world.verifier()
    SmallCard(monkeypatch, halved, "_image_embeddings", 8, lambda inputs: len(inputs["pixel_values"]))
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        found = halved.score(images, texts, world.open_image)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert halved.batch.size == 8
    assert "the verifier's batch 16: going on with 8" in caplog.text
