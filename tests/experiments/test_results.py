"""The artifact, the tables and the figures of a study."""

import json

import pytest

from fisao_pipeline.experiments.images import draw_arms, draw_budget
from fisao_pipeline.experiments.plot import plot_arms, plot_budget
from fisao_pipeline.experiments.results import summarise
from fisao_pipeline.experiments.tables import format_study, study_document, verdict
from fisao_pipeline.params.study import Arm

ARMS = (Arm(name="default", set={}), Arm(name="margin", set={"reward_annotation.rule": "margin"}))


COMMIT = "0123456789abcdef" * 2 + "01234567"
SIZES = {"captions": 500, "caption_images": 400, "pope_questions": 2700, "pope_images": 150}


def probed(chair):
    return {
        f"{prefix}{name}": value
        for prefix in ("probe_", "probe_sampled_")
        for name, value in {"chair_i": chair, "recall": 0.9}.items()
    }


def interval(value):
    return {"value": value, "low": None, "high": None}


def metrics(chair, recall):
    return {
        name: interval(value)
        for name, value in {
            "chair_i": chair,
            "chair_s": 0.5,
            "recall": recall,
            "objects_per_caption": 3.0,
            "repeated_mentions": 0.125,
            "tokens": 23.58,
            "unlikely_captions": 0.034,
            "pope_accuracy": 0.9,
            "pope_yes_ratio": 0.495,
        }.items()
    }


def record(arm, seed, chair, recall=0.8, base_key="b"):
    comparison = {
        "base": {d: metrics(0.3, 0.95) for d in ("greedy", "sampled")},
        "aligned": {d: metrics(chair, recall) for d in ("greedy", "sampled")},
        "change": {d: metrics(None, 0.0) for d in ("greedy", "sampled")},
        "settings": {"samples": {d: SIZES for d in ("greedy", "sampled")}},
        "notes": [],
    }
    history = [
        {"round": float(n), "sampled_tokens": 1000.0 * (n + 1), "kept": n == 0, **probed(0.3 - (n + 1) * (0.3 - chair))}
        for n in (-1, 0)
        if chair is not None
    ] or [{"round": -1.0, "kept": False}, {"round": 0.0, "kept": True}]
    information = {"git_commit": COMMIT, "git_dirty": False, "ended": f"2026-11-2{seed}T01:02:03+00:00"}
    rest = {"key": f"{arm}-{seed}", "information": information, "seconds": {}, "parameters": {}}
    rest["inputs"] = {"version": "0.1.0"}
    return {"arm": arm, "seed": seed, "base_key": base_key, "comparison": comparison, "history": history, **rest}


def study(**of_margin):
    return [
        record("default", 0, 0.1),
        record("margin", 0, 0.2, **of_margin),
        record("default", 1, 0.2),
        record("margin", 1, 0.4, **of_margin),
    ]


@pytest.fixture
def result():
    return summarise(study(), ARMS, 0.95)


def test_every_arm_has_its_own_means(result):
    chair = {name: arm["aligned"]["greedy"]["chair_i"]["mean"] for name, arm in result["arms"].items()}
    assert chair == pytest.approx({"default": 0.15, "margin": 0.3})
    assert result["arms"]["margin"]["set"] == {"reward_annotation.rule": "margin"}
    assert result["settings"] == {"seeds": [0, 1], "interval": "Student's t over seeds", "confidence": 0.95}
    assert [(row["arm"], row["seed"], row["kept_round"]) for row in result["rows"]] == [
        ("default", 0, 0),
        ("margin", 0, 0),
        ("default", 1, 0),
        ("margin", 1, 0),
    ]
    json.dumps(result, allow_nan=False)


def test_the_table_has_the_base_first_and_then_the_arms(result):
    greedy, sampled = (part.strip().splitlines() for part in format_study(result).split("decoding\n")[1:])
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in greedy if line.startswith("|")]
    assert cells[0] == ["arm", *"CHAIRi ↓,CHAIRs ↓,recall ↑,objects,tokens,rep. ↓,odd ↓,POPE ↑,yes".split(",")]
    assert cells[2] == ["base", "30.0", "50.0", "95.0", "3.00", "23.6", "0.12", "3.4", "90.0", "49.5"]
    assert cells[3][:3] == ["default", "15.0±7.1", "50.0±0.0"]
    assert cells[4][:2] == ["margin", "30.0±14.1"]
    against = next(number for number, line in enumerate(sampled) if line.startswith("CHAIR_i against default"))
    assert len([line for line in sampled[:against] if line.startswith("|")]) == 5
    assert sampled[-1].split("|")[1:4] == [" margin ", " +15.0 [-48.5, +78.5] ", " not distinguishable "]
    assert max(map(len, format_study(result).splitlines())) <= 120


def test_arms_with_other_evaluation_settings_have_a_base_of_their_own():
    result = summarise(study(base_key="other"), ARMS, 0.95)
    assert [base["arms"] for base in result["base"]] == [["default"], ["margin"]]
    lines = format_study(result).splitlines()
    assert any(line.startswith("| base of default") for line in lines)
    assert any(line.startswith("| base of margin") for line in lines)


def test_an_undefined_metric_is_a_dash():
    records = [record("default", 0, None), record("margin", 0, 0.2)]
    result = summarise(records, ARMS, 0.95)
    assert "| default | –" in format_study(result)
    assert "| margin  | 20.0 " in format_study(result), "and one seed has no spread"


def test_the_plot_shows_base_and_arms_in_percent(result):
    figure = plot_arms(result)
    traces = [(t.name, t.x[0], t.y[0]) for t in figure.data if t.xaxis == "x"]
    assert traces == [
        ("base", 95.0, 30.0),
        ("default", 80.0, pytest.approx(15.0)),
        ("margin", 80.0, pytest.approx(30.0)),
    ]
    summary = result["arms"]["default"]["aligned"]["greedy"]["chair_i"]
    default = figure.data[1]
    assert default.error_y.array[0] == pytest.approx(100 * (summary["high"] - summary["mean"]))
    colours = {t.name: set() for t in figure.data}
    for trace in figure.data:
        colours[trace.name].add(trace.marker.color)
    assert all(len(used) == 1 for used in colours.values()), "one colour in all panels"
    assert sum(bool(t.showlegend) for t in figure.data) == 3


def test_an_arm_that_names_nothing_is_not_in_the_plot():
    result = summarise([record("default", 0, None), record("margin", 0, 0.2)], ARMS, 0.95)
    assert {trace.name for trace in plot_arms(result).data} == {"base", "margin"}


def test_the_other_arms_are_compared_with_the_first_seed_by_seed(result):
    """0.2 − 0.1 and 0.4 − 0.2: the mean of the differences, and their spread, not that of the values."""
    assert result["arms"]["default"]["against_first"] == {}
    difference = result["arms"]["margin"]["against_first"]["greedy"]["chair_i"]
    assert (difference["mean"], difference["n"]) == (pytest.approx(0.15), 2)
    assert difference["std"] == pytest.approx(0.1 / 2**0.5)
    assert verdict("default", difference) == "not distinguishable"


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.1, "a better"), (-0.1, -0.01, "a worse"), (-0.1, 0.1, "not distinguishable"), (None, None, "one seed")],
)
def test_more_chair_than_the_first_arm_speaks_for_the_first(low, high, says):
    assert verdict("a", {"mean": 0.0, "low": low, "high": high}) == says


def test_a_difference_needs_the_seeds_of_both_arms_and_the_same_evaluation():
    rows = study()[:3]  # the second seed has the first arm only
    against = summarise(rows, ARMS, 0.95)["arms"]["margin"]["against_first"]
    assert against["greedy"]["chair_i"]["n"] == 1
    assert summarise(study(base_key="other"), ARMS, 0.95)["arms"]["margin"]["against_first"] == {}
    assert summarise(study()[1::2], ARMS, 0.95)["arms"]["margin"]["against_first"] == {}, "the first arm has no row"


FAILED = [{"arm": "margin", "seed": 1, "key": "k", "error": "ValueError: no | pairs\nin /some/folder"}]


def test_failed_rows_are_named_and_change_no_other(result):
    partial = summarise(study()[:3], ARMS, 0.95, FAILED)
    assert partial["arms"]["default"] == result["arms"]["default"]
    assert partial["arms"]["margin"]["aligned"]["greedy"]["chair_i"]["n"] == 1
    assert partial["settings"]["seeds"] == [0, 1]
    assert "Failed: margin, seed 1: ValueError: no | pairs" in format_study(partial)
    document = study_document(partial, "x")
    assert "3 of 4 rows" in document and "| margin | 1    | `ValueError` |" in document
    assert "/some/folder" not in document


def test_an_arm_without_a_finished_row_is_in_the_tables_with_dashes():
    failed = [{**FAILED[0], "seed": seed} for seed in (0, 1)]
    result = summarise(study()[::2], ARMS, 0.95, failed)
    assert "| margin  | –" in format_study(result)
    assert "| `margin`  | –" in study_document(result, "x")
    for draw in (plot_arms, plot_budget, draw_arms, draw_budget):
        draw(result)
    with pytest.raises(ValueError, match="no finished row"):
        summarise([], ARMS, 0.95, failed)


def test_the_document_says_where_the_rows_came_from():
    rows = study()
    document = study_document(summarise(rows, ARMS, 0.95), "kedro run --pipelines=ablation")
    assert document.startswith(
        "Written by `kedro run --pipelines=ablation`: 2 arms, seeds 0, 1, 4 rows; fisao-pipeline 0.1.0; "
        "finished 2026-11-20 to 2026-11-21; commit `0123456789ab`.\n"
    )
    assert document.count("Each row: 500 captions of 400 held-out images, 2700 yes/no questions on 150 of them.") == 2
    rows[1]["information"] |= {"git_dirty": True}
    rows[3]["information"] |= {"git_commit": None, "git_dirty": None}
    document = study_document(summarise(rows, ARMS, 0.95), "x")
    assert (
        "; commits `0123456789ab` (2 rows), `0123456789ab` (1 rows, **with uncommitted changes**), unknown (1 rows)."
        in document
    )


def test_the_document_has_both_decodings_with_intervals_the_base_first_and_the_changes():
    result = summarise(study(), ARMS, 0.95)
    document = study_document(result, "x")
    greedy, sampled, changes = document.split("### ")[1:4]
    for part in (greedy, sampled):
        assert [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")][2:] == [
            "base",
            "`default`",
            "`margin`",
        ]
        for title in ("CHAIR_i, %", "object recall", "tokens per caption", "base finds odd", "POPE yes ratio"):
            assert title in part
    summary = result["arms"]["margin"]["aligned"]["greedy"]["chair_i"]
    assert f"30.0 [{100 * summary['low']:.1f}, {100 * summary['high']:.1f}]" in greedy
    assert (
        '| `margin`  | `reward_annotation.rule: "margin"` | not distinguishable | not distinguishable | 0, 0' in changes
    )


def test_a_value_of_an_arm_cannot_leave_its_cell():
    arms = (ARMS[0], Arm(name="margin", set={"policy_training.lora.targets": ["a`|b"]}))
    document = study_document(summarise(study(), arms, 0.95), "x")
    assert '`policy_training.lora.targets: ["a\'\\|b"]`' in document


def test_the_budget_plot_has_a_line_and_a_band_per_arm_in_percent(result):
    figure = plot_budget(result)
    panel = [t for t in figure.data if t.xaxis == "x"]
    assert [(t.name, t.fill) for t in panel] == [
        ("default", None),
        ("default", "toself"),
        ("margin", None),
        ("margin", "toself"),
    ]
    assert list(panel[0].x) == [0, 1000] and list(panel[0].y) == pytest.approx([30, 15])
    assert min(panel[1].y) == 0, "no share is less than nothing"
    assert len({t.xaxis for t in figure.data}) == 4
    assert sum(bool(t.showlegend) for t in figure.data) == 2
    assert all(t.visible is True for t in figure.data)


def test_of_many_arms_only_other_methods_are_shown_at_once():
    arms = [Arm(name="default", set={}), *(Arm(name=f"a{n}", set={"policy_training.ppo.gamma": n}) for n in range(5))]
    arms.append(Arm(name="dpo", set={"policy_training.trainer": "dpo"}))
    result = summarise([record(arm.name, 0, 0.2) for arm in arms], arms, 0.95)
    assert {t.name for t in plot_budget(result).data if t.visible is True} == {"default", "dpo"}
    assert {t.name for t in plot_budget(result).data} == {arm.name for arm in arms}
    (legend,) = draw_budget(result).legends
    assert [text.get_text() for text in legend.get_texts()] == ["default", "dpo"]


def test_images_are_drawn_from_the_same_numbers(result, tmp_path):
    arms, budget = draw_arms(result), draw_budget(result)
    assert list(budget.axes[0].lines[0].get_ydata()) == pytest.approx([30, 15])
    assert [axis.get_title() for axis in arms.axes] == ["greedy decoding", "sampled decoding"]
    (container, *_) = arms.axes[0].containers
    assert (container[0].get_xdata()[0], container[0].get_ydata()[0]) == (95, 30)
    budget.savefig(tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")
