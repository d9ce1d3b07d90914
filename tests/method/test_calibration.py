from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import few
from tests.references import method_float64 as reference

from fisao_pipeline.method.calibration import (
    Baseline,
    CalibrationError,
    ClassScores,
    auroc,
    auroc_of_normals,
    calibrate_annotated,
    calibrate_contrast,
    calibrate_mixture,
    overlap_coefficient,
    overlap_of_normals,
)

BASELINE = Baseline("annotated", ClassScores(0.3, 0.02, 30), ClassScores(0.2, 0.04, 10), 0.75, 0.9)
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


def planted(seed: int, weight: float, high: float, low: float, std: float, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores drawn from two normals, and which were drawn from the upper one."""
    generator = torch.Generator().manual_seed(seed)
    correct = torch.rand(n, generator=generator) < weight
    means = torch.where(correct, high, low)
    return means + std * torch.randn(n, generator=generator), correct


class TestBaseline:
    def test_by_hand(self) -> None:
        assert BASELINE.gap == pytest.approx(0.1)
        assert BASELINE.midpoint == pytest.approx(0.25)
        # Weighted by counts: sqrt((30 · 0.0004 + 10 · 0.0016) / 40).
        assert BASELINE.pooled_std == pytest.approx(math.sqrt(0.028 / 40), rel=1e-12)

    @given(
        low=st.floats(-1, 0.9), gap=st.floats(0.01, 1), stds=st.tuples(*[st.floats(0.01, 1)] * 2),
        counts=st.tuples(*[st.integers(1, 50)] * 2),
    )  # fmt: skip
    @few
    def test_its_properties_are_those_of_the_mentions_it_stands_for(
        self, low: float, gap: float, stds: tuple[float, float], counts: tuple[int, int]
    ) -> None:
        high = low + gap
        baseline = Baseline(
            "fixed", ClassScores(high, stds[0], counts[0]), ClassScores(low, stds[1], counts[1]), 0.5, 0.9
        )
        # Deviations of n mentions of a class that are ± its spread: the pooled one is that of them all.
        deviations = [[std] * n for std, n in zip(stds, counts, strict=True)]
        squares = [d**2 for of_class in deviations for d in of_class]
        assert baseline.pooled_std == pytest.approx(math.sqrt(math.fsum(squares) / len(squares)), rel=1e-9)
        assert min(stds) * (1 - 1e-9) <= baseline.pooled_std <= max(stds) * (1 + 1e-9)
        assert baseline.gap == high - low
        assert high - baseline.midpoint == pytest.approx(baseline.midpoint - low, abs=1e-12)

    def test_classes_without_counts_weigh_the_same(self) -> None:
        fixed = Baseline("fixed", ClassScores(0.3, 0.03, 0), ClassScores(0.2, 0.01, 0), 0.5, None)
        assert fixed.pooled_std == pytest.approx(math.sqrt((0.0009 + 0.0001) / 2))

    @pytest.mark.parametrize("mean", [0.2, 0.1, float("nan")])
    def test_refuses_correct_scores_no_higher_than_hallucinated(self, mean: float) -> None:
        with pytest.raises(CalibrationError, match=r"no higher than .*reward_annotation\.template"):
            replace(BASELINE, correct=ClassScores(mean, 0.02, 30))

    def test_refuses_no_spread(self) -> None:
        with pytest.raises(CalibrationError, match="no spread"):
            replace(BASELINE, correct=ClassScores(0.3, 0.0, 3), hallucinated=ClassScores(0.2, 0.0, 3))
        replace(BASELINE, correct=ClassScores(0.3, 0.0, 3))  # one class with spread is enough

    @pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, 1.1, float("nan")])
    def test_refuses_a_mixing_weight_that_decides_alone(self, weight: float) -> None:
        with pytest.raises(CalibrationError, match="mixing_weight must lie in"):
            replace(BASELINE, mixing_weight=weight)


class TestAuroc:
    def test_by_hand(self) -> None:
        # Of six pairs: four won, one tie, one lost.
        assert auroc(torch.tensor([0.3, 0.2, 0.5]), torch.tensor([0.2, 0.25])) == pytest.approx(4.5 / 6)
        assert auroc(torch.tensor([1.0]), torch.tensor([0.0])) == 1.0
        assert auroc(torch.tensor([0.0]), torch.tensor([1.0])) == 0.0
        assert auroc(torch.tensor([1.0]), torch.tensor([1.0])) == 0.5

    @given(
        correct=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        hallucinated=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        seed=st.integers(0, 2**31),
    )
    @few
    def test_matches_brute_force_with_ties(self, correct: list[int], hallucinated: list[int], seed: int) -> None:
        first, second = torch.tensor(correct) / 7, torch.tensor(hallucinated) / 7
        answer = auroc(first, second)
        assert answer == pytest.approx(reference.auroc(correct, hallucinated), rel=1e-12)
        assert auroc(second, first) == pytest.approx(1 - answer, abs=1e-12)
        generator = torch.Generator().manual_seed(seed)
        shuffled = (x[torch.randperm(len(x), generator=generator)] for x in (first, second))
        assert auroc(*shuffled) == answer

    def test_takes_a_strided_view(self) -> None:
        scores = torch.tensor([[0.1, 9.0], [0.4, 9.0]])
        assert auroc(scores[:, 0], torch.tensor([0.2])) == 0.5

    def test_refuses(self) -> None:
        for sizes in ((0, 2), (2, 0)):
            with pytest.raises(CalibrationError, match=f"auroc: .*{sizes[0]} correct and {sizes[1]} others"):
                auroc(torch.zeros(sizes[0]), torch.zeros(sizes[1]))
        for number in NOT_FINITE:
            with pytest.raises(CalibrationError, match="auroc: a score is NaN or infinite"):
                auroc(torch.tensor([number]), torch.zeros(2))
            with pytest.raises(CalibrationError, match="auroc: a score is NaN or infinite"):
                auroc(torch.zeros(2), torch.tensor([0.1, number]))


class TestOverlap:
    def test_by_hand(self) -> None:
        # Bins [0, 0.25), [0.25, 0.5), [0.5, 0.75), [0.75, 1]: shares (0, ¼, ¼, ½) and (½, ¼, 0, ¼).
        correct, hallucinated = torch.tensor([0.3, 0.6, 0.8, 1.0]), torch.tensor([0.0, 0.1, 0.4, 0.9])
        assert overlap_coefficient(correct, hallucinated, bins=4) == pytest.approx(0.5)
        assert overlap_coefficient(correct, hallucinated, bins=1) == 1.0

    def test_apart_and_the_same(self) -> None:
        assert overlap_coefficient(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.2]), bins=4) == 0.0
        assert overlap_coefficient(torch.full((3,), 0.2), torch.full((2,), 0.2)) == 1.0

    @given(seed=st.integers(0, 2**31), bins=st.integers(2, 60))
    @few
    def test_reference_order_and_symmetry(self, seed: int, bins: int) -> None:
        scores, correct = planted(seed, 0.6, 0.3, 0.2, 0.05, 80)
        first, second = scores[correct].double(), scores[~correct].double()
        answer = overlap_coefficient(first, second, bins)
        assert answer == pytest.approx(reference.overlap_coefficient(first.tolist(), second.tolist(), bins), rel=1e-6)
        assert overlap_coefficient(second.flip(0), first.flip(0), bins) == pytest.approx(answer, rel=1e-12)

    def test_has_40_bins_unless_told_otherwise(self) -> None:
        scores, correct = planted(2, 0.5, 0.3, 0.2, 0.05, 500)
        first, second = scores[correct], scores[~correct]
        assert overlap_coefficient(first, second) == overlap_coefficient(first, second, bins=40)
        assert overlap_coefficient(first, second) != overlap_coefficient(first, second, bins=41)

    def test_of_normals_is_what_many_draws_show(self) -> None:
        assert overlap_of_normals(2.0, 1.0) == pytest.approx(0.3173105, rel=1e-6)  # 2Φ(−1)
        assert overlap_of_normals(-0.2, 0.1) == pytest.approx(overlap_of_normals(2.0, 1.0))
        scores, correct = planted(1, 0.5, 0.3, 0.2, 0.05, 200_000)
        assert overlap_coefficient(scores[correct], scores[~correct]) == pytest.approx(0.3173, abs=0.01)

    def test_refuses(self) -> None:
        for sizes in ((0, 2), (2, 0)):
            with pytest.raises(
                CalibrationError, match=f"overlap_coefficient: .*{sizes[0]} correct and {sizes[1]} others"
            ):
                overlap_coefficient(torch.zeros(sizes[0]), torch.zeros(sizes[1]))
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            overlap_coefficient(torch.zeros(1), torch.zeros(1), bins=0)
        for of_normals in (overlap_of_normals, auroc_of_normals):
            with pytest.raises(ValueError, match="std must be positive"):
                of_normals(0.1, 0.0)
        for number in NOT_FINITE:
            with pytest.raises(CalibrationError, match="overlap_coefficient: a score is NaN or infinite"):
                overlap_coefficient(torch.tensor([number]), torch.zeros(2))
            with pytest.raises(CalibrationError, match="overlap_coefficient: a score is NaN or infinite"):
                overlap_coefficient(torch.zeros(2), torch.tensor([0.1, number]))


class TestAnnotated:
    SCORES = torch.tensor([0.30, 0.10, 0.34, 0.20, 0.35])
    CORRECT = torch.tensor([True, False, True, False, True])

    def test_by_hand(self) -> None:
        baseline = calibrate_annotated(self.SCORES, self.CORRECT)
        assert baseline.mode == "annotated"
        assert (baseline.correct.n, baseline.hallucinated.n) == (3, 2)
        assert baseline.correct.mean == pytest.approx(0.33, rel=1e-5)
        assert baseline.hallucinated.mean == pytest.approx(0.15, rel=1e-5)
        assert baseline.correct.std == pytest.approx(math.sqrt(0.0014 / 3), rel=1e-4)  # of the population
        assert baseline.hallucinated.std == pytest.approx(0.05, rel=1e-5)
        assert baseline.mixing_weight == pytest.approx(0.6)
        assert baseline.auroc == 1.0

    @given(seed=st.integers(0, 2**31))
    @few
    def test_reference_and_order(self, seed: int) -> None:
        scores, correct = planted(seed, 0.6, 0.3, 0.2, 0.05, 60)
        baseline = calibrate_annotated(scores, correct)
        for found, kept in ((baseline.correct, correct), (baseline.hallucinated, ~correct)):
            table = ([scores.tolist()], [kept.tolist()])
            assert found.mean == pytest.approx(reference.masked_mean(*table), rel=1e-5)
            assert found.std == pytest.approx(reference.masked_std(*table), rel=1e-4)
        assert baseline.auroc == pytest.approx(reference.auroc(scores[correct].tolist(), scores[~correct].tolist()))
        order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
        turned = calibrate_annotated(scores[order], correct[order])
        assert (turned.mixing_weight, turned.auroc) == (baseline.mixing_weight, baseline.auroc)
        assert turned.correct.mean == pytest.approx(baseline.correct.mean, rel=1e-5)

    @pytest.mark.parametrize(("flip", "count", "name"), [(False, 2, "hallucinated"), (True, 2, "correct")])
    def test_refuses_too_few_mentions(self, flip: bool, count: int, name: str) -> None:
        scores, correct = (-self.SCORES, ~self.CORRECT) if flip else (self.SCORES, self.CORRECT)
        calibrate_annotated(scores, correct, min_mentions=count)
        pattern = rf"found {count} {name} mentions and needs {count + 1}.*reward_annotation\.calibration"
        with pytest.raises(CalibrationError, match=pattern):
            calibrate_annotated(scores, correct, min_mentions=count + 1)

    @pytest.mark.parametrize(("correct", "name"), [(True, "hallucinated"), (False, "correct")])
    def test_refuses_one_class_only(self, correct: bool, name: str) -> None:
        pattern = rf"reward_annotation: calibration `annotated` found 0 {name} mentions and needs 2 .*min_mentions"
        with pytest.raises(CalibrationError, match=pattern):
            calibrate_annotated(self.SCORES, torch.full((5,), correct))

    def test_refuses_no_label_at_all(self) -> None:
        pattern = r"reward_annotation: .*no labelled mention.*reward_annotation\.calibration to `contrast` or `mixture`"
        with pytest.raises(CalibrationError, match=pattern):
            calibrate_annotated(torch.zeros(0), torch.zeros(0, dtype=torch.bool))

    def test_refuses_one_mention_by_default_scores_upside_down_and_not_finite(self) -> None:
        with pytest.raises(CalibrationError, match="found 1 hallucinated mentions and needs 2"):
            calibrate_annotated(self.SCORES[:3], self.CORRECT[:3])
        with pytest.raises(CalibrationError, match="no higher than"):
            calibrate_annotated(self.SCORES, ~self.CORRECT)
        for number in NOT_FINITE:
            with pytest.raises(CalibrationError, match=r"^calibration `annotated`: a score is NaN or infinite"):
                calibrate_annotated(torch.cat([self.SCORES, torch.tensor([number])]), torch.ones(6, dtype=torch.bool))


class TestMixture:
    @pytest.mark.parametrize("weight", [0.15, 0.5, 0.85])
    def test_recovers_a_planted_mixture(self, weight: float) -> None:
        scores, correct = planted(3, weight, 0.31, 0.19, 0.03, 6000)
        baseline = calibrate_mixture(scores)
        assert baseline.mode == "mixture"
        assert baseline.correct.mean == pytest.approx(0.31, abs=0.003)
        assert baseline.hallucinated.mean == pytest.approx(0.19, abs=0.003)
        assert baseline.pooled_std == pytest.approx(0.03, rel=0.04)
        assert baseline.mixing_weight == pytest.approx(weight, abs=0.015)
        assert baseline.correct.n + baseline.hallucinated.n == 6000
        assert baseline.correct.n == pytest.approx(6000 * baseline.mixing_weight, abs=0.51)
        # The formula against those very draws, whose labels it has not seen.
        assert baseline.auroc == pytest.approx(auroc(scores[correct], scores[~correct]), abs=0.003)

    @pytest.mark.parametrize("separation", [1.5, 2.5])
    def test_auroc_formula_is_that_of_two_normals(self, separation: float) -> None:
        scores, _ = planted(5, 0.5, 0.2 + 0.02 * separation, 0.2, 0.02, 20000)
        baseline = calibrate_mixture(scores, max_steps=5000, tolerance=1e-10)
        generator = torch.Generator().manual_seed(7)
        upper, lower = (
            found.mean + found.std * torch.randn(20000, generator=generator)
            for found in (baseline.correct, baseline.hallucinated)
        )
        assert baseline.auroc == pytest.approx(auroc(upper, lower), abs=0.008)

    @given(seed=st.integers(0, 2**31), weight=st.floats(0.3, 0.7))
    @few
    def test_ends_at_a_fixed_point_of_expectation_maximisation(self, seed: int, weight: float) -> None:
        scores, _ = planted(seed, weight, 0.32, 0.2, 0.03, 200)
        found = calibrate_mixture(scores, max_steps=5000, tolerance=1e-14)
        ends = (found.mixing_weight, found.correct.mean, found.hallucinated.mean, found.correct.std)
        assert found.correct.std == found.hallucinated.std
        assert reference.mixture_step(scores.tolist(), *ends) == pytest.approx(ends, rel=1e-5)

    @given(seed=st.integers(0, 2**31), settings=st.sampled_from([(1e-7, 500), (1e-3, 500), (-1.0, 1), (-1.0, 3)]))
    @few
    def test_matches_reference_step_by_step(self, seed: int, settings: tuple[float, int]) -> None:
        """A stop after so many steps, or so little gain, shows the start and each step, not only where they lead."""
        scores, _ = planted(seed, 0.4, 0.3, 0.2, 0.04, 90)
        found = calibrate_mixture(scores.double(), tolerance=settings[0], max_steps=settings[1], min_separation=0.0)
        ends = (found.mixing_weight, found.correct.mean, found.hallucinated.mean, found.correct.std)
        assert ends == pytest.approx(reference.mixture(scores.double().tolist(), *settings), rel=1e-8)

    def test_defaults(self) -> None:
        scores, _ = planted(3, 0.5, 0.2, 0.2, 0.05, 200)  # one heap: EM is slow to part it
        free = {"min_separation": 0.0, "tolerance": -1.0}  # never content, so that only the number of steps ends it
        assert calibrate_mixture(scores, **free) == calibrate_mixture(scores, **free, max_steps=500)
        assert calibrate_mixture(scores, **free) != calibrate_mixture(scores, **free, max_steps=501)

    @given(seed=st.integers(0, 2**31), shift=st.floats(-0.3, 0.3), scale=st.floats(0.1, 3.0))
    @few
    def test_order_shift_and_scale(self, seed: int, shift: float, scale: float) -> None:
        scores, _ = planted(seed, 0.5, 0.32, 0.2, 0.03, 100)
        straight = calibrate_mixture(scores.double())
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        turned = calibrate_mixture(scores.double()[order] * scale + shift)
        assert turned.correct.mean == pytest.approx(straight.correct.mean * scale + shift, abs=1e-4)
        assert turned.correct.std == pytest.approx(straight.correct.std * scale, rel=1e-3)
        assert turned.mixing_weight == pytest.approx(straight.mixing_weight, abs=1e-3)

    def test_two_exact_values(self) -> None:
        baseline = calibrate_mixture(torch.tensor([0.1] * 10 + [0.3] * 30))
        assert baseline.correct.mean == pytest.approx(0.3, abs=1e-6)
        assert baseline.hallucinated.mean == pytest.approx(0.1, abs=1e-6)
        assert baseline.mixing_weight == pytest.approx(0.75, abs=1e-6)
        assert baseline.auroc == pytest.approx(1.0)

    def test_refuses_one_heap(self) -> None:
        # EM stops between the start's two halves of a heap with one mention far off it, 0.1 deviations apart.
        heap, _ = planted(0, 0.5, 0.2, 0.2, 0.01, 40)
        off = torch.cat([heap, torch.tensor([0.3])])
        with pytest.raises(
            CalibrationError, match=r"one heap, not two .*0\.\d\d standard deviations apart.*`annotated`"
        ):
            calibrate_mixture(off)
        calibrate_mixture(off, min_separation=0.0)
        # Far enough apart, but one of the components is a single mention.
        generator = torch.Generator().manual_seed(2)
        single = torch.cat([0.2 + 0.01 * torch.randn(30, generator=generator), torch.tensor([0.3])])
        with pytest.raises(CalibrationError, match=r"one heap, not two \(components of 1 and 30 mentions"):
            calibrate_mixture(single)
        with pytest.raises(CalibrationError, match=r"one heap, not two \(components of 30 and 1 mentions"):
            calibrate_mixture(-single)

    def test_two_mentions_are_a_component(self) -> None:
        heap = 0.2 + 0.01 * torch.randn(20, generator=torch.Generator().manual_seed(0))
        found = calibrate_mixture(torch.cat([heap, torch.tensor([0.25, 0.25])]))
        assert (found.correct.n, found.hallucinated.n) == (2, 20)

    def test_separation_is_in_standard_deviations(self) -> None:
        scores, _ = planted(3, 0.5, 0.31, 0.19, 0.03, 2000)  # planted 4 apart
        found = calibrate_mixture(scores)
        assert calibrate_mixture(scores, min_separation=found.gap / found.correct.std) == found  # at the edge
        calibrate_mixture(scores, min_separation=3.8)
        with pytest.raises(CalibrationError, match="one heap"):
            calibrate_mixture(scores, min_separation=4.2)

    def test_refuses(self) -> None:
        scores, _ = planted(0, 0.5, 0.32, 0.2, 0.03, 20)
        calibrate_mixture(scores)
        with pytest.raises(CalibrationError, match=r"found 19 mentions and needs 20.*reward_annotation\.calibration"):
            calibrate_mixture(scores[:19])
        with pytest.raises(CalibrationError, match="all mentions have the same score"):
            calibrate_mixture(torch.full((30,), 0.25))
        for number in NOT_FINITE:
            with pytest.raises(CalibrationError, match="`mixture`: a score is NaN or infinite"):
                calibrate_mixture(torch.cat([scores, torch.tensor([number])]))


class TestContrast:
    AGREED, ABSENT = torch.tensor([0.28, 0.30, 0.32]), torch.tensor([0.08, 0.10, 0.12, 0.10])

    def test_by_hand(self) -> None:
        own = torch.tensor([0.3] * 6 + [0.1] * 2)
        baseline = calibrate_contrast(self.AGREED, self.ABSENT, own, min_mentions=2)
        assert baseline.mode == "contrast"
        assert (baseline.correct.n, baseline.hallucinated.n) == (3, 4)
        assert baseline.correct.mean == pytest.approx(0.3)
        assert baseline.hallucinated.mean == pytest.approx(0.1)
        assert baseline.correct.std == pytest.approx(math.sqrt(0.0008 / 3), rel=1e-5)
        assert baseline.hallucinated.std == pytest.approx(math.sqrt(0.0002), rel=1e-5)
        # Thirteen deviations apart, so that every mention is one or the other: six of eight.
        assert baseline.mixing_weight == pytest.approx(0.75, abs=1e-6)
        assert baseline.auroc == pytest.approx(1.0)

    @given(seed=st.integers(0, 2**31), weight=st.floats(0.2, 0.8))
    @few
    def test_the_weight_is_a_fixed_point_and_its_components_stay(self, seed: int, weight: float) -> None:
        scores, _ = planted(seed, weight, 0.28, 0.2, 0.04, 400)
        agreed, absent = planted(seed + 1, 1, 0.28, 0.2, 0.04, 60)[0], planted(seed + 2, 0, 0.28, 0.2, 0.04, 90)[0]
        found = calibrate_contrast(agreed, absent, scores, max_steps=20_000, tolerance=1e-12)
        assert found.correct.mean == pytest.approx(float(agreed.mean()), rel=1e-5)
        assert found.hallucinated.mean == pytest.approx(float(absent.mean()), rel=1e-5)
        components = (found.correct.mean, found.hallucinated.mean, found.pooled_std)
        step, *_ = reference.mixture_step(scores.tolist(), found.mixing_weight, *components)
        assert step == pytest.approx(found.mixing_weight, abs=1e-6)
        assert found.auroc == pytest.approx(auroc_of_normals(found.gap, found.pooled_std))
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        turned = calibrate_contrast(agreed.flip(0), absent.flip(0), scores[order], max_steps=20_000, tolerance=1e-12)
        assert turned.mixing_weight == pytest.approx(found.mixing_weight, abs=1e-5)

    @given(seed=st.integers(0, 2**31), settings=st.sampled_from([(1e-7, 500), (1e-2, 500), (0.0, 1), (0.0, 3)]))
    @few
    def test_matches_reference_step_by_step(self, seed: int, settings: tuple[float, int]) -> None:
        scores, agreed, absent = (
            planted(seed + n, w, 0.3, 0.2, 0.05, 60)[0].double() for n, w in enumerate((0.4, 1, 0))
        )
        found = calibrate_contrast(agreed, absent, scores, tolerance=settings[0], max_steps=settings[1])
        components = (found.correct.mean, found.hallucinated.mean, found.pooled_std)
        expected = reference.contrast_weight(scores.tolist(), *components, *settings)
        assert found.mixing_weight == pytest.approx(expected, rel=1e-8)

    def test_defaults(self) -> None:
        scores, agreed, absent = (planted(n, w, 0.22, 0.2, 0.05, 60)[0].double() for n, w in enumerate((0.4, 1, 0)))
        found = calibrate_contrast(agreed, absent, scores, tolerance=0.0)
        assert found == calibrate_contrast(agreed, absent, scores, tolerance=0.0, max_steps=500)
        assert found != calibrate_contrast(agreed, absent, scores, tolerance=0.0, max_steps=501)

    @pytest.mark.parametrize("weight", [0.2, 0.5, 0.8])
    def test_recovers_a_planted_weight(self, weight: float) -> None:
        scores, correct = planted(3, weight, 0.3, 0.2, 0.04, 20_000)
        agreed, absent = planted(4, 1, 0.3, 0.2, 0.04, 5000)[0], planted(5, 0, 0.3, 0.2, 0.04, 5000)[0]
        found = calibrate_contrast(agreed, absent, scores)
        assert found.mixing_weight == pytest.approx(weight, abs=0.02)
        assert found.auroc == pytest.approx(auroc(scores[correct], scores[~correct]), abs=0.01)

    def test_absent_words_that_are_too_easy_raise_the_weight_and_the_auroc(self) -> None:
        """The bias that the docstring warns of."""
        scores, _ = planted(3, 0.5, 0.3, 0.2, 0.04, 20_000)
        agreed = planted(4, 1, 0.3, 0.2, 0.04, 5000)[0]
        fair, easy = (planted(5, 0, 0.3, low, 0.04, 5000)[0] for low in (0.2, 0.14))
        honest, biased = calibrate_contrast(agreed, fair, scores), calibrate_contrast(agreed, easy, scores)
        assert biased.mixing_weight > honest.mixing_weight + 0.03
        assert biased.auroc > honest.auroc
        assert biased.midpoint < honest.midpoint

    @pytest.mark.parametrize(("short", "name"), [(0, "agreed mentions"), (1, "absent words"), (2, "mentions")])
    def test_refuses_too_few(self, short: int, name: str) -> None:
        sets = [planted(n, w, 0.3, 0.2, 0.04, 20)[0] for n, w in enumerate((1, 0, 0.5))]
        calibrate_contrast(*sets)
        sets[short] = sets[short][:19]
        pattern = rf"reward_annotation: calibration `contrast` found 19 {name} and needs 20 .*min_mentions"
        with pytest.raises(CalibrationError, match=pattern):
            calibrate_contrast(*sets)

    def test_refuses_upside_down_one_sided_and_not_finite(self) -> None:
        agreed, absent, own = (planted(n, w, 0.3, 0.2, 0.01, 40)[0] for n, w in enumerate((1, 0, 0.5)))
        with pytest.raises(CalibrationError, match="no higher than"):
            calibrate_contrast(absent, agreed, own)
        for one_sided, which in ((agreed, "agreed mentions"), (absent, "absent words")):
            with pytest.raises(CalibrationError, match=f"all 40 mentions score like {which}.*`annotated`"):
                calibrate_contrast(agreed, absent, one_sided)
        for place in range(3):
            for number in NOT_FINITE:
                sets = [agreed, absent, own]
                sets[place] = torch.cat([sets[place], torch.tensor([number])])
                with pytest.raises(CalibrationError, match="`contrast`: a score is NaN or infinite"):
                    calibrate_contrast(*sets)


@given(gap=st.floats(-2, 2), std=st.floats(0.05, 3))
@few
def test_normals_match_the_standard_librarys(gap: float, std: float) -> None:
    """`statistics.NormalDist` on its own: its overlap of two densities, and its Φ of the scores' difference."""
    upper, lower = NormalDist(gap, std), NormalDist(0.0, std)
    assert overlap_of_normals(gap, std) == pytest.approx(upper.overlap(lower), abs=1e-9)
    assert auroc_of_normals(gap, std) == pytest.approx(1 - (upper - lower).cdf(0.0), abs=1e-9)
    assert auroc_of_normals(gap, std) + auroc_of_normals(-gap, std) == pytest.approx(1.0)
    assert overlap_of_normals(3 * gap, 3 * std) == pytest.approx(overlap_of_normals(gap, std), rel=1e-9)


def test_auroc_of_normals_is_what_many_draws_show() -> None:
    assert auroc_of_normals(1.0, 1.0) == pytest.approx(0.7602499, rel=1e-6)  # Φ(1/√2)
    assert auroc_of_normals(0.0, 0.3) == 0.5
    assert auroc_of_normals(-0.1, 0.1) == pytest.approx(1 - 0.7602499, rel=1e-6)
    scores, correct = planted(1, 0.5, 0.3, 0.2, 0.1, 200_000)
    assert auroc(scores[correct], scores[~correct]) == pytest.approx(0.7602, abs=0.004)
