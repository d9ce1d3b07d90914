"""The verdict says what the intervals say and never more."""

import pytest

from fisao_pipeline.reporting.verdicts import HEADLINES, findings, headlines, outcome, signed, verdict

UNDEFINED = {"value": None, "low": None, "high": None}


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


def comparison(**changes):
    """Each metric with its change's bounds; base 0.5, aligned 0.4."""
    metrics = {name: interval(0.5, 0.45, 0.55) for name in changes}
    aligned = {name: interval(0.4, 0.35, 0.45) for name in changes}
    change = {name: interval(sum(bounds) / 2, *bounds) for name, bounds in changes.items()}
    relative = {f"{name}_relative": interval(-0.2, -0.3, -0.1) for name in changes}
    return {"base": {"greedy": metrics}, "aligned": {"greedy": aligned}, "change": {"greedy": change | relative}}


def told(**changes):
    return verdict(findings(comparison(**changes), "greedy")).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("low", "high", "wanted", "expected"),
    [
        (-0.3, -0.1, "lower", "better"),
        (0.1, 0.3, "lower", "worse"),
        (0.1, 0.3, "higher", "better"),
        (-0.3, -0.1, "higher", "worse"),
        (-0.1, 0.3, "higher", "open"),
        (0.0, 0.3, "higher", "open"),
        (-0.3, 0.0, "lower", "open"),
        (0.0, 0.0, "lower", "open"),
        (0.1, 0.3, None, "changed"),
        (-0.1, 0.3, None, "open"),
        (None, None, "higher", "open"),
    ],
)
def test_only_an_interval_on_one_side_of_zero_shows_anything(low, high, wanted, expected):
    assert outcome(interval(0.2, low, high), wanted) == expected


def test_without_a_change_there_is_no_outcome():
    assert outcome(UNDEFINED, "lower") == "undefined"


def test_good_and_bad_are_told_with_both_values():
    assert told(chair_i=(-0.3, -0.1), recall=(-0.2, -0.05)) == (
        "The aligned model makes up a smaller share of the objects it names (50.0 → 40.0 %), but names a smaller share "
        "of the objects that are there (50.0 → 40.0 %)."
    )


def test_what_the_intervals_leave_open_is_said():
    assert told(chair_i=(-0.3, -0.1), recall=(-0.2, 0.05), pope_accuracy=(-0.1, 0.1)) == (
        "The aligned model makes up a smaller share of the objects it names (50.0 → 40.0 %); these data leave open "
        "whether it names more or fewer of the objects that are there (50.0 → 40.0 %) and whether it answers yes/no "
        "questions better or worse (50.0 → 40.0 %)."
    )
    assert told(recall=(-0.2, 0.05)).startswith("These data leave open whether it names more or fewer")


@pytest.mark.parametrize("name", HEADLINES)
@pytest.mark.parametrize(("bounds", "says"), [((-0.2, -0.1), 0), ((0.1, 0.2), 1), ((-0.1, 0.1), 2)])
def test_each_headline_in_each_direction(name, bounds, says):
    """Lower is better for CHAIR_i and higher for the others."""
    words = HEADLINES[name]
    better, worse, unsure = words if name == "chair_i" else (words[1], words[0], words[2])
    sentence = told(**{name: bounds})
    assert (better, worse, unsure)[says] in sentence
    assert not [other for other in words if other in sentence and other != (better, worse, unsure)[says]]


def test_other_metrics_are_no_part_of_the_verdict():
    found = findings(comparison(chair_s=(-0.3, -0.1), tokens=(1, 2)), "greedy")
    assert headlines(found) == []
    assert verdict(found) == "Nothing was measured that the two models could be compared by."


def test_a_metric_that_no_model_has_is_no_finding():
    made = comparison(chair_i=(-0.3, -0.1), recall=(-0.3, -0.1))
    for part in ("base", "aligned", "change"):
        made[part]["greedy"]["recall"] = UNDEFINED
    (finding,) = findings(made, "greedy")
    assert (finding.metric, finding.title, finding.percent) == ("chair_i", "CHAIR_i", True)
    assert finding.show(finding.change, sign=True) == "−20.0"
    assert finding.show(UNDEFINED) == "–"


@pytest.mark.parametrize(
    ("number", "digits", "sign", "text"),
    [
        (-0.04, 1, True, "+0.0"),
        (-0.04, 1, False, "0.0"),
        (-1.25, 1, True, "−1.2"),
        (3, 0, True, "+3"),
        (3, 0, False, "3"),
    ],
)
def test_numbers_as_printed(number, digits, sign, text):
    assert signed(number, digits, sign) == text
