from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import assert_matches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.calibration import Baseline, ClassScores
from fisao_pipeline.method.token_rewards import (
    charge_repeats,
    labelled_rewards,
    mention_rewards,
    place_on_tokens,
    posterior_correct,
    reward_thresholds,
    sentence_rewards,
)

# μ_cor = 0.3, μ_hal = 0.2: gap 0.1, midpoint 0.25, pooled standard deviation sqrt((3 · 0.0025 + 0.0001) / 4).
BASELINE = Baseline("annotated", ClassScores(0.3, 0.05, 3), ClassScores(0.2, 0.01, 1), 0.75, 0.9)
EVEN = Baseline("fixed", ClassScores(0.3, 0.05, 0), ClassScores(0.2, 0.05, 0), 0.5, None)
RULES = ["margin", "midpoint", "posterior"]
SCORES = st.lists(st.floats(-0.25, 0.625, width=32), min_size=1, max_size=8)


def expected_reward(score: float, rule: str, **settings: float) -> float:
    return reference.mention_reward(
        score, rule, correct=(0.3, 0.05, 3), hallucinated=(0.2, 0.01, 1), mixing_weight=0.75, **settings
    )


class TestPosterior:
    def test_by_hand(self) -> None:
        # Halfway between the means nothing but the mixing weight speaks.
        assert_matches(posterior_correct(torch.tensor([0.25]), BASELINE), [0.75])
        # Slope 0.1 / 0.05² = 40: 0.05 above the midpoint the log-odds are 2.
        assert_matches(posterior_correct(torch.tensor([0.30]), EVEN), [0.8807971])

    @given(scores=SCORES, weight=st.floats(0.01, 0.99))
    @few
    def test_is_bayes_theorem_with_two_normal_densities(self, scores: list[float], weight: float) -> None:
        baseline = replace(BASELINE, mixing_weight=weight)
        expected = [reference.bayes(s, weight, 0.3, 0.2, baseline.pooled_std) for s in scores]
        assert_matches(posterior_correct(torch.tensor(scores), baseline), expected)

    @given(scores=SCORES)
    @few
    def test_rises_with_the_score_whatever_the_spreads(self, scores: list[float]) -> None:
        ordered = posterior_correct(torch.tensor(sorted(scores), dtype=torch.float64), BASELINE)
        assert (ordered.diff() >= 0).all()
        assert ((ordered > 0) & (ordered < 1)).all()
        distinct = torch.tensor([-0.2, 0.0, 0.2, 0.3, 0.4])
        assert (posterior_correct(distinct, BASELINE).diff() > 0).all()

    @pytest.mark.parametrize("weight", [1e-9, 1 - 1e-7])
    def test_extreme_weights_keep_their_odds(self, weight: float) -> None:
        baseline = replace(EVEN, mixing_weight=weight)
        scores = torch.tensor([0.0, 0.25, 0.5])
        expected = [reference.bayes(s, weight, 0.3, 0.2, 0.05) for s in scores.tolist()]
        torch.testing.assert_close(posterior_correct(scores, baseline), torch.tensor(expected), rtol=1e-5, atol=0)


class TestThresholds:
    def test_by_hand(self) -> None:
        assert reward_thresholds(BASELINE, "margin", margin=0.05) == pytest.approx((0.15, 0.35))
        assert reward_thresholds(BASELINE, "midpoint", margin=0.05) == pytest.approx((0.25, 0.25))
        # Without a margin, and at a cost of 1, which is what they are unless told otherwise.
        assert reward_thresholds(BASELINE, "margin") == pytest.approx((0.2, 0.3))
        assert reward_thresholds(EVEN, "posterior") == pytest.approx((0.25, 0.25))
        # Even odds, slope 40: a cost of e² moves the threshold by 2 / 40.
        assert reward_thresholds(EVEN, "posterior", false_mention_cost=7.3890561) == pytest.approx((0.3, 0.3))

    @pytest.mark.parametrize("rule", RULES)
    @given(margin=st.floats(0, 0.2), cost=st.floats(1, 10), weight=st.floats(0.05, 0.95))
    @few
    def test_is_where_the_reward_changes_its_sign(self, rule: str, margin: float, cost: float, weight: float) -> None:
        settings = {"margin": margin, "false_mention_cost": cost}
        baseline = replace(BASELINE, mixing_weight=weight)
        low, high = reward_thresholds(baseline, rule, **settings)
        around = torch.tensor([low - 1e-3, low + 1e-6, high - 1e-6, high + 1e-3], dtype=torch.float64)
        below, *within, above = mention_rewards(around, baseline, rule, **settings).tolist()
        assert below < 0 < above
        assert all(abs(reward) < 1e-3 for reward in within)


class TestMentionRewards:
    def test_margin_by_hand(self) -> None:
        scores = torch.tensor([0.45, 0.34, 0.25, 0.16, 0.05])
        assert_matches(mention_rewards(scores, BASELINE, "margin", margin=0.05), [1.5, 0.0, 0.0, 0.0, -1.5])
        assert_matches(mention_rewards(scores, BASELINE, "margin"), [1.5, 0.4, 0.0, -0.4, -1.5])

    def test_margin_pays_nothing_at_the_very_edge(self) -> None:
        baseline = Baseline("fixed", ClassScores(0.5, 0.1, 0), ClassScores(0.25, 0.1, 0), 0.5, None)
        scores = torch.tensor([0.75, 0.0])  # exactly μ_cor + λ and μ_hal − λ in binary
        assert mention_rewards(scores, baseline, "margin", margin=0.25).tolist() == [0.0, 0.0]

    def test_midpoint_by_hand_and_linear(self) -> None:
        scores = torch.linspace(-0.2, 0.6, 9)
        rewards = mention_rewards(scores, BASELINE, "midpoint", margin=0.5)
        assert_matches(
            mention_rewards(torch.tensor([0.2, 0.25, 0.3, 0.4]), BASELINE, "midpoint"), [-0.5, 0.0, 0.5, 1.5]
        )
        torch.testing.assert_close(rewards.diff(), torch.full((8,), 1.0), rtol=1e-5, atol=1e-5)  # 0.1 / gap

    def test_posterior_by_hand(self) -> None:
        at_midpoint = torch.tensor([0.25])  # P = 0.75
        assert_matches(mention_rewards(at_midpoint, BASELINE, "posterior"), [0.5])
        assert_matches(mention_rewards(at_midpoint, BASELINE, "posterior", false_mention_cost=3.0), [0.0])
        assert_matches(mention_rewards(at_midpoint, BASELINE, "posterior", false_mention_cost=5.0), [-0.5])

    @pytest.mark.parametrize("rule", RULES)
    @given(scores=SCORES, margin=st.floats(0, 0.2), cost=st.floats(1, 10))
    @few
    def test_reference_and_order(self, rule: str, scores: list[float], margin: float, cost: float) -> None:
        tensor = torch.tensor(scores, dtype=torch.float64)
        settings = {"margin": margin, "false_mention_cost": cost}
        rewards = mention_rewards(tensor, BASELINE, rule, **settings)
        assert_matches(rewards, [expected_reward(s, rule, margin=margin, cost=cost) for s in scores])
        torch.testing.assert_close(
            mention_rewards(tensor.flip(0), BASELINE, rule, **settings), rewards.flip(0), rtol=0, atol=0
        )

    @given(scores=SCORES, margin=st.floats(0, 0.2))
    @few
    def test_margin_has_a_dead_zone_and_signs_outside_it(self, scores: list[float], margin: float) -> None:
        tensor = torch.tensor(scores, dtype=torch.float64)
        rewards = mention_rewards(tensor, BASELINE, "margin", margin=margin)
        above, below = tensor > 0.3 + margin, tensor < 0.2 - margin
        assert (rewards[above] > 0).all()
        assert (rewards[below] < 0).all()
        assert (rewards[~above & ~below] == 0).all()

    @given(scores=SCORES, cost=st.floats(1, 20))
    @few
    def test_posterior_pays_only_what_is_right_often_enough(self, scores: list[float], cost: float) -> None:
        tensor = torch.tensor(scores, dtype=torch.float64)
        probability = posterior_correct(tensor, BASELINE)
        rewards = mention_rewards(tensor, BASELINE, "posterior", false_mention_cost=cost)
        threshold = cost / (1 + cost)
        assert (rewards[probability > threshold + 1e-9] > 0).all()
        assert (rewards[probability < threshold - 1e-9] < 0).all()
        assert ((rewards >= -cost) & (rewards <= 1)).all()

    @pytest.mark.parametrize("rule", RULES)
    def test_an_offset_common_to_all_scores_changes_nothing(self, rule: str) -> None:
        scores = torch.linspace(0.0, 0.5, 11, dtype=torch.float64)
        moved = replace(
            BASELINE,
            correct=replace(BASELINE.correct, mean=0.3 + 0.07),
            hallucinated=replace(BASELINE.hallucinated, mean=0.2 + 0.07),
        )
        torch.testing.assert_close(
            mention_rewards(scores + 0.07, moved, rule, margin=0.023),
            mention_rewards(scores, BASELINE, rule, margin=0.023),
            rtol=1e-9,
            atol=1e-9,
        )

    def test_refuses(self) -> None:
        score = torch.tensor([0.3])
        for number in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(ValueError, match="score is NaN or infinite"):
                mention_rewards(torch.tensor([0.3, number]), BASELINE, "midpoint")
        with pytest.raises(ValueError, match="margin must be at least 0"):
            mention_rewards(score, BASELINE, "margin", margin=-0.01)
        with pytest.raises(ValueError, match="false_mention_cost must be at least 1"):
            mention_rewards(score, BASELINE, "posterior", false_mention_cost=0.9)

    def test_refuses_an_unknown_rule(self, as_in_production: None) -> None:
        with pytest.raises(ValueError, match=r"^mention_rewards: rule must be margin, midpoint or posterior, got 's'"):
            mention_rewards(torch.tensor([0.3]), BASELINE, "s")
        with pytest.raises(
            ValueError, match=r"^reward_thresholds: rule must be margin, midpoint or posterior, got 's'"
        ):
            reward_thresholds(BASELINE, "s")


class TestRepeats:
    def test_by_hand(self) -> None:
        rewards = torch.tensor([2.0, 2.0, -1.0, -1.0])
        repeated = torch.tensor([False, True, False, True])
        assert charge_repeats(rewards, repeated).tolist() == [2.0, 0.0, -1.0, -1.0]
        assert charge_repeats(rewards, repeated, 0.25).tolist() == [2.0, -0.25, -1.0, -1.25]

    @given(rewards=st.lists(st.floats(-3, 3), min_size=1, max_size=8), data=st.data(), penalty=st.floats(0, 2))
    @few
    def test_repeats_never_earn_and_others_are_left_alone(
        self, rewards: list[float], data: st.DataObject, penalty: float
    ) -> None:
        flags = data.draw(st.lists(st.booleans(), min_size=len(rewards), max_size=len(rewards)))
        before, repeated = torch.tensor(rewards), torch.tensor(flags)
        after = charge_repeats(before, repeated, penalty)
        assert torch.equal(after[~repeated], before[~repeated])
        assert (after[repeated] <= 0).all()
        expected = [min(r, 0.0) - penalty if flag else r for r, flag in zip(before.tolist(), flags, strict=True)]
        assert_matches(after, expected)

    def test_refuses_a_negative_penalty(self) -> None:
        with pytest.raises(ValueError, match="repeat_penalty must be at least 0"):
            charge_repeats(torch.zeros(1), torch.ones(1, dtype=torch.bool), -0.1)


class TestPlacement:
    def test_by_hand(self) -> None:
        # The second and third mention end in the same token.
        placed = place_on_tokens(torch.tensor([1.0, 0.5, -2.0, 4.0]), [(0, 1), (2, 5), (4, 5), (5, 6)], 7)
        assert placed.tolist() == [1.0, 0.0, 0.0, 0.0, -1.5, 4.0, 0.0]
        assert place_on_tokens(torch.tensor([]), [], 3).tolist() == [0.0, 0.0, 0.0]
        assert place_on_tokens(torch.tensor([3.0]), [(0, 3)], 3).tolist() == [0.0, 0.0, 3.0]

    @given(
        mentions=st.lists(st.tuples(st.floats(-3, 3, width=32), st.integers(0, 9), st.integers(1, 5)), max_size=6),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    @few
    def test_sums_add_up_and_all_lands_on_last_tokens(
        self, mentions: list[tuple[float, int, int]], dtype: torch.dtype
    ) -> None:
        rewards = torch.tensor([reward for reward, _, _ in mentions], dtype=dtype)
        spans = [(start, min(start + length, 10)) for _, start, length in mentions]
        placed = place_on_tokens(rewards, spans, 10)
        assert placed.dtype == dtype
        expected = [0.0] * 10
        for reward, (_, end) in zip(rewards.tolist(), spans, strict=True):
            expected[end - 1] += reward
        assert_matches(placed, expected)
        assert_matches(placed.sum(), rewards.double().sum().item(), atol=1e-5)
        flipped = place_on_tokens(rewards.flip(0), spans[::-1], 10)
        torch.testing.assert_close(flipped, placed, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("span", [(-1, 2), (2, 2), (3, 2), (0, 5)])
    def test_refuses_spans_outside_the_response(self, span: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=rf"span \({span[0]}, {span[1]}\) outside a response of 4 tokens"):
            place_on_tokens(torch.ones(1), [span], 4)

    def test_stays_on_the_rewards_device(self) -> None:
        # "meta" is a device that every machine has.
        assert place_on_tokens(torch.ones(1, device="meta"), [(0, 1)], 2).device.type == "meta"

    def test_refuses_another_number_of_spans(self) -> None:
        with pytest.raises(ValueError, match="2 rewards for 1 spans"):
            place_on_tokens(torch.ones(2), [(0, 1)], 4)


class TestSentenceRewards:
    def test_by_hand_and_order(self) -> None:
        scores = torch.tensor([0.30, 0.25, 0.20])
        assert_matches(sentence_rewards(scores, 0.25, 0.02), [2.5, 0.0, -2.5])
        assert torch.equal(sentence_rewards(scores.flip(0), 0.25, 0.02), sentence_rewards(scores, 0.25, 0.02).flip(0))

    @given(scores=SCORES, mean=st.floats(-0.5, 0.5), std=st.floats(0.01, 1.0))
    @few
    def test_matches_reference(self, scores: list[float], mean: float, std: float) -> None:
        assert_matches(sentence_rewards(torch.tensor(scores), mean, std), [(s - mean) / std for s in scores], atol=1e-5)

    @pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
    def test_refuses_a_spread_that_is_not_positive(self, std: float) -> None:
        with pytest.raises(ValueError, match="std must be positive"):
            sentence_rewards(torch.ones(1), 0.0, std)


class TestLabelledRewards:
    def test_by_hand(self) -> None:
        correct, known = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
        assert labelled_rewards(correct, known, 1.5).tolist() == [1.0, -1.5, 0.0, 0.0]
        assert labelled_rewards(correct, known).tolist() == [1.0, -1.0, 0.0, 0.0]

    @given(labels=st.lists(st.sampled_from([True, False, None]), max_size=8), cost=st.floats(1, 10))
    @few
    def test_equals_the_reference(self, labels: list[bool | None], cost: float) -> None:
        correct = torch.tensor([label is True for label in labels], dtype=torch.bool)
        known = torch.tensor([label is not None for label in labels], dtype=torch.bool)
        assert labelled_rewards(correct, known, cost).tolist() == [reference.label_reward(x, cost) for x in labels]

    @given(labels=st.lists(st.booleans(), min_size=1, max_size=8), cost=st.floats(1, 10))
    @few
    def test_is_the_limit_of_the_posterior_rule(self, labels: list[bool], cost: float) -> None:
        # A verifier whose scores of both classes lie a thousand deviations apart.
        sure = Baseline("fixed", ClassScores(0.9, 1e-3, 0), ClassScores(-0.1, 1e-3, 0), 0.5, None)
        scores = torch.tensor([0.9 if label else -0.1 for label in labels], dtype=torch.float64)
        correct = torch.tensor(labels)
        paid = labelled_rewards(correct, torch.ones_like(correct), cost)
        assert_matches(mention_rewards(scores, sure, "posterior", false_mention_cost=cost), paid.tolist())

    def test_refuses_a_cost_below_one(self) -> None:
        with pytest.raises(ValueError, match="false_mention_cost"):
            labelled_rewards(torch.tensor([True]), torch.tensor([True]), 0.99)
