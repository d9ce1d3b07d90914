"""The probe over sampled tokens: means over seeds, and arms at equal tokens, worked out by hand."""

import pytest

from fisao_pipeline.experiments.curves import at_equal_tokens, mean_curve


def history(tokens, chairs, **more):
    rounds = range(-1, len(tokens) - 1)
    return [
        {"round": float(n), "sampled_tokens": float(t), "probe_chair_i": c, "probe_recall": 0.5, **more}
        for n, t, c in zip(rounds, tokens, chairs, strict=True)
    ]


def test_a_curve_is_the_mean_over_seeds_of_tokens_and_values():
    first, second = history([0, 100, 200], [0.3, 0.2, 0.1]), history([0, 120, 240], [0.3, 0.1, 0.1])
    before, one, two = mean_curve([first, second], 0.95)
    assert (before["round"], before["sampled_tokens"], before["greedy"]["chair_i"]["std"]) == (-1, 0, 0)
    assert one["sampled_tokens"] == 110
    assert one["greedy"]["chair_i"]["mean"] == pytest.approx(0.15)
    # t of one degree of freedom is 12.706, the standard error 0.05
    assert one["greedy"]["chair_i"]["high"] == pytest.approx(0.15 + 12.706 * 0.05, abs=1e-4)
    assert one["sampled"] == {}, "no sampled probe, no point"
    assert two["sampled_tokens"] == 220


def test_only_rounds_and_values_that_all_seeds_have():
    short, long = history([0, 100], [0.3, 0.2]), history([0, 90, 180], [0.3, 0.2, 0.1])
    assert [point["round"] for point in mean_curve([short, long], 0.95)] == [-1, 0]
    del long[1]["probe_chair_i"]  # no probe caption named an object
    assert set(mean_curve([short, long], 0.95)[1]["greedy"]) == {"recall"}
    assert mean_curve([], 0.95) == []
    assert mean_curve([[{"round": -1.0, "kept": True}]], 0.95) == [], "a row of before tokens were counted"


def test_one_seed_has_a_curve_without_an_interval():
    assert mean_curve([history([0, 100], [0.3, 0.2])], 0.95)[1]["greedy"]["chair_i"]["low"] is None


def test_at_equal_tokens_an_arm_lies_on_the_line_between_its_rounds():
    """Twice as many tokens a round: after 100 tokens it is half way between 0.3 and 0.2."""
    first = {0: history([0, 100, 200], [0.3, 0.2, 0.1])}
    arm = {0: history([0, 200, 400], [0.3, 0.2, 0.15])}
    one, two = at_equal_tokens(arm, first, 0.95)["greedy"]
    assert (one["sampled_tokens"], two["sampled_tokens"]) == (100, 200)
    assert one["chair_i"]["mean"] == pytest.approx(0.25 - 0.2)
    assert two["chair_i"]["mean"] == pytest.approx(0.2 - 0.1)
    assert at_equal_tokens(arm, first, 0.95)["sampled"] == []


def test_what_an_arm_has_not_sampled_is_no_point():
    first = {0: history([0, 100, 200, 300], [0.3, 0.2, 0.1, 0.1])}
    arm = {0: history([0, 100, 191], [0.3, 0.25, 0.2])}
    points = at_equal_tokens(arm, first, 0.95)["greedy"]
    assert [point["sampled_tokens"] for point in points] == [100, 200], "200 is within 5% of 191, 300 is not"
    assert points[1]["chair_i"]["mean"] == pytest.approx(0.1)


def test_differences_are_taken_seed_by_seed_of_the_seeds_of_both():
    first = {0: history([0, 100], [0.3, 0.2]), 1: history([0, 100], [0.3, 0.1]), 2: history([0, 100], [0.3, 0.9])}
    arm = {0: history([0, 100], [0.3, 0.25]), 1: history([0, 100], [0.3, 0.15]), 3: history([0, 100], [0.3, 0.0])}
    (point,) = at_equal_tokens(arm, first, 0.95)["greedy"]
    assert point["chair_i"]["n"] == 2
    assert point["chair_i"]["mean"] == pytest.approx(0.05)
    assert point["chair_i"]["std"] == pytest.approx(0)
    assert at_equal_tokens({}, first, 0.95) == {"greedy": [], "sampled": []}
