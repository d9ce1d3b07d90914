from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import Batch, assert_matches, assert_refuses_odd_shapes, batches, few
from tests.references import method_float64 as reference
from torch import Tensor

from fisao_pipeline.method.preference_losses import dpo_loss, nll_loss, response_logprobs

METRICS = ["loss", "reward_margin", "accuracy"]
NAMES = ["chosen_logprobs", "rejected_logprobs", "ref_chosen_logprobs", "ref_rejected_logprobs"]
BETAS = st.sampled_from([0.01, 0.1, 1.0])
# What TRL 1.16.0 makes of `trl_batch` with β 0.3, by its name of the loss; the margin and accuracy are those of sums.
TRL_LOSSES = {"sigmoid": 0.8472152, "sigmoid_norm": 0.8731607}
TRL_REWARD_MARGIN = 0.03409974
TRL_ACCURACY = 1 / 3


def pairs(seed: int, count: int) -> list[Tensor]:
    """Log-probabilities of ``count`` pairs, tens of nats each, in the order of the arguments."""
    generator = torch.Generator().manual_seed(seed)
    return [20 * torch.randn(count, generator=generator) - 30 for _ in NAMES]


class TestDPOLoss:
    def test_by_hand(self) -> None:
        # Margins 0.5 · ((−2 + 4) − (−5 + 3)) = 2 and 0.5 · ((−1 + 1) − (−2 + 4)) = −1.
        chosen = torch.tensor([-2.0, -1.0], requires_grad=True)
        rejected = torch.tensor([-5.0, -2.0], requires_grad=True)
        answer = dpo_loss(chosen, rejected, torch.tensor([-4.0, -1.0]), torch.tensor([-3.0, -4.0]), 0.5)
        assert_matches(answer.loss.detach(), (math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 2)
        assert_matches(answer.reward_margin, 0.5)
        assert answer.accuracy.item() == 0.5
        answer.loss.backward()
        # −β · σ(−margin) / 2: the pair that is ranked wrongly pulls harder.
        expected = [-0.25 / (1 + math.exp(2)), -0.25 / (1 + math.exp(-1))]
        assert_matches(chosen.grad, expected)
        assert_matches(rejected.grad, [-x for x in expected])

    @given(seed=st.integers(0, 2**31), count=st.integers(1, 6), beta=BETAS)
    @few
    def test_matches_reference(self, seed: int, count: int, beta: float) -> None:
        tensors = pairs(seed, count)
        answer = dpo_loss(*tensors, beta)
        expected = reference.dpo_loss(*(x.tolist() for x in tensors), beta)
        for metric in METRICS:
            assert_matches(getattr(answer, metric), expected[metric], atol=1e-5)

    @given(seed=st.integers(0, 2**31), count=st.integers(1, 6), beta=BETAS)
    @few
    def test_where_policy_and_reference_agree_the_loss_is_log_2(self, seed: int, count: int, beta: float) -> None:
        chosen, rejected, *_ = pairs(seed, count)
        answer = dpo_loss(chosen, rejected, chosen, rejected, beta)
        assert_matches(answer.loss, math.log(2))
        assert answer.reward_margin.item() == answer.accuracy.item() == 0

    @given(seed=st.integers(0, 2**31), beta=BETAS)
    @few
    def test_a_pair_of_equals_costs_log_2(self, seed: int, beta: float) -> None:
        response, _, ref_response, _ = pairs(seed, 3)
        assert_matches(dpo_loss(response, response, ref_response, ref_response, beta).loss, math.log(2))

    @given(seed=st.integers(0, 2**31), beta=BETAS, more=st.floats(0.5, 20))
    @few
    def test_falls_with_the_margin(self, seed: int, beta: float, more: float) -> None:
        chosen, rejected, ref_chosen, ref_rejected = (x / 10 for x in pairs(seed, 1))
        before = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
        wider = [
            dpo_loss(chosen + more, rejected, ref_chosen, ref_rejected, beta),
            dpo_loss(chosen, rejected - more, ref_chosen, ref_rejected, beta),
            dpo_loss(chosen, rejected, ref_chosen - more, ref_rejected, beta),
            dpo_loss(chosen, rejected, ref_chosen, ref_rejected + more, beta),
        ]
        for after in wider:
            assert after.loss < before.loss
            assert_matches(after.reward_margin - before.reward_margin, beta * more, atol=1e-4)

    @given(seed=st.integers(0, 2**31), beta=BETAS)
    @few
    def test_swapping_the_two_of_a_pair_mirrors(self, seed: int, beta: float) -> None:
        chosen, rejected, ref_chosen, ref_rejected = (x / 10 for x in pairs(seed, 1))
        straight = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
        swapped = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta)
        assert_matches(swapped.reward_margin, -straight.reward_margin.item())
        # −log σ(−m) = m − log σ(m)
        assert_matches(swapped.loss, straight.loss.item() + straight.reward_margin.item())
        assert straight.accuracy + swapped.accuracy == 1

    def test_a_margin_far_below_zero_is_a_finite_loss_with_a_gradient(self) -> None:
        chosen = torch.tensor([-1000.0], requires_grad=True)
        zero = torch.zeros(1)
        answer = dpo_loss(chosen, zero, zero, zero, 1.0)
        answer.loss.backward()
        assert answer.loss.item() == 1000
        assert chosen.grad.item() == -1

    def test_only_the_loss_carries_a_gradient(self) -> None:
        answer = dpo_loss(torch.zeros(1, requires_grad=True), *(torch.zeros(1) for _ in range(3)), 0.1)
        assert [getattr(answer, m).requires_grad for m in METRICS] == [True, False, False]

    def test_refuses(self) -> None:
        arguments = {name: torch.zeros(2) for name in NAMES}
        for beta in (0.0, -1.0):
            with pytest.raises(ValueError, match="beta must be positive"):
                dpo_loss(**arguments, beta=beta)
        with pytest.raises(ValueError, match="holds no pair"):
            dpo_loss(**{name: torch.zeros(0) for name in NAMES}, beta=0.1)

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        assert_refuses_odd_shapes(dpo_loss, NAMES, beta=0.1)

    @pytest.mark.parametrize("loss_type", TRL_LOSSES)
    def test_is_what_trl_computed(self, loss_type: str) -> None:
        """The recorded answers of TRL 1.16.0, so that the comparison is made where trl is not installed too."""
        length_normalised = loss_type == "sigmoid_norm"
        logprobs, ref_logprobs, mask = trl_batch()
        now, ref = (response_logprobs(x, mask, length_normalised).split(3) for x in (logprobs, ref_logprobs))
        ours = dpo_loss(*now, *ref, 0.3)
        assert_matches(ours.loss, TRL_LOSSES[loss_type])
        if not length_normalised:  # TRL reports the sums' margins for either loss
            assert_matches(ours.reward_margin, TRL_REWARD_MARGIN)
            assert_matches(ours.accuracy, TRL_ACCURACY)

    @pytest.mark.parametrize("loss_type", TRL_LOSSES)
    def test_the_recorded_answers_are_trls(self, loss_type: str) -> None:
        """TRL has no function of its own for the loss: its trainer's method is called on a stand-in for the trainer."""
        pytest.importorskip("trl", reason="trl is no dependency: pip install trl to record its DPO loss again")
        theirs = trl_loss(*trl_batch(), 0.3, loss_type)
        assert theirs["loss"] == pytest.approx(TRL_LOSSES[loss_type], rel=1e-5)
        assert theirs["rewards/margins"] == pytest.approx(TRL_REWARD_MARGIN, rel=1e-5)
        assert theirs["rewards/accuracies"] == pytest.approx(TRL_ACCURACY, rel=1e-5)


def trl_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of three pairs under policy and reference, chosen first, and what counts of them.

    By a formula, for a generator's numbers are no promise between versions of torch.
    """
    steps = torch.arange(42.0).view(6, 7)
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 1, 6, 7]).unsqueeze(1)
    return 3 * torch.sin(steps) - 4, 3 * torch.cos(1.7 * steps) - 4, mask


def trl_loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float, loss_type: str) -> dict[str, float]:
    """What TRL's DPOTrainer makes of these tokens, chosen responses in the first half of the rows."""
    from trl import DPOTrainer

    logprobs, ref_logprobs = (torch.where(mask, x, 0.0) for x in (logprobs, ref_logprobs))
    outputs = SimpleNamespace(
        log_probs=logprobs, entropy=-logprobs, mean_logits=logprobs, is_top1=torch.zeros_like(mask)
    )

    def same(x: Tensor) -> Tensor:
        return x

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=same, gather_for_metrics=same),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        use_weighting=False,
        beta=beta,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    # One prompt token before the completions: TRL predicts each token from the one before.
    whole = torch.cat([torch.zeros(len(mask), 1, dtype=torch.bool), mask], dim=1)
    chosen, rejected = ref_logprobs.sum(dim=1).chunk(2)
    inputs = {
        "input_ids": torch.zeros(whole.shape, dtype=torch.long),
        "attention_mask": torch.ones(whole.shape, dtype=torch.long),
        "completion_mask": whole.long(),
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    loss = DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    return {"loss": loss.item()} | {name: values[0] for name, values in trainer._metrics["train"].items()}


class TestResponseLogprobs:
    def test_by_hand(self) -> None:
        logprobs = torch.tensor([[-1.0, -2.0, -6.0], [-4.0, -50.0, -60.0]])
        mask = torch.tensor([[True, True, True], [True, False, False]])
        assert response_logprobs(logprobs, mask, False).tolist() == [-9, -4]
        assert response_logprobs(logprobs, mask, True).tolist() == [-3, -4]

    @pytest.mark.parametrize("length_normalised", [False, True])
    @given(batch=batches())
    @few
    def test_what_is_masked_changes_neither_value_nor_gradient(self, length_normalised: bool, batch: Batch) -> None:
        clean = batch.normal().requires_grad_()
        soiled = batch.soiled(clean.detach()).requires_grad_()
        weights = torch.arange(1.0, len(batch.mask) + 1)
        answers = [response_logprobs(x, batch.mask, length_normalised) for x in (clean, soiled)]
        torch.testing.assert_close(*answers, rtol=0, atol=0)
        for answer in answers:
            (answer * weights).sum().backward()
        torch.testing.assert_close(soiled.grad, clean.grad, rtol=0, atol=0)
        assert (soiled.grad[~batch.mask] == 0).all()

    @given(batch=batches())
    @few
    def test_matches_reference(self, batch: Batch) -> None:
        values = batch.normal()
        sums = [math.fsum(reference.counted([r], [m])) for r, m in zip(values.tolist(), batch.mask, strict=True)]
        assert_matches(response_logprobs(values, batch.mask, False), sums)
        means = [reference.masked_mean([r], [m]) for r, m in zip(values.tolist(), batch.mask, strict=True)]
        assert_matches(response_logprobs(values, batch.mask, True), means)

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        assert_refuses_odd_shapes(response_logprobs, ["logprobs", "completion_mask"], length_normalised=False)


class TestNLLLoss:
    def test_mean_is_over_the_tokens_of_the_batch_and_not_per_response_first(self) -> None:
        logprobs = torch.tensor([[-4.0, 0.0, 0.0], [-1.0, -1.0, -2.0]], requires_grad=True)
        mask = torch.tensor([[True, False, False], [True, True, True]])
        loss = nll_loss(logprobs, mask)
        assert loss.item() == 2.0  # per response first: (4 + 4/3) / 2
        loss.backward()
        assert logprobs.grad.tolist() == [[-0.25, 0, 0], [-0.25, -0.25, -0.25]]

    @given(batch=batches())
    @few
    def test_matches_reference(self, batch: Batch) -> None:
        values = batch.normal()
        assert_matches(nll_loss(batch.soiled(values), batch.mask), -reference.masked_mean(values.tolist(), batch.mask))

    def test_refuses_an_empty_mask(self) -> None:
        with pytest.raises(ValueError, match="counts no element"):
            nll_loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))

    def test_refuses_shapes_that_would_be_broadcast(self, as_in_production: None) -> None:
        assert_refuses_odd_shapes(nll_loss, ["logprobs", "completion_mask"])
