"""A whole study of two arms and two seeds in the environment `smoke`: interrupted, taken up again, changed."""

import json
import logging

import mlflow
import pytest
from kedro.framework.cli.utils import _split_params
from tests.smoke_project import Smoke

from fisao_pipeline.pipelines.ablation.nodes import RowsFailedError
from fisao_pipeline.pipelines.ablation.stages import CatalogStages

LAST_ROUND = {"keep": "last", "ppo": {"learning_rate": 0.05}}
STAGES = ("sample", "annotate", "train", "answer_base", "answer_aligned", "compare")
ALL_ONCE = {
    "sample": 1,
    "annotate": 1,
    "train": 1,
    "answer_base": 1,
    "answer_aligned": 1,
    "compare": 1,
}


class Calls(dict):
    """How often each stage was called; a study is stopped at a given call of `train`."""

    def __init__(self, patch: pytest.MonkeyPatch, stop_at_training: int | None = None):
        super().__init__(dict.fromkeys(STAGES, 0))
        self.stop_at_training = stop_at_training
        for name in STAGES:
            patch.setattr(CatalogStages, name, self._counting(name, getattr(CatalogStages, name)))

    def _counting(self, name, real):
        def call(*args):
            self[name] += 1
            if name == "train" and self[name] == self.stop_at_training:
                raise KeyboardInterrupt
            return real(*args)

        return call


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    """Scenes rendered and ingested."""
    project = Smoke.make(tmp_path_factory.mktemp("study") / "project", mlflow_template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
        project.run("pocket_world", tags=["scenes"])
        project.run("image_ingestion")
    return project


def study(smoke: Smoke, pipeline="ablation", stop_at_training=None, **parameters) -> Calls:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        calls = Calls(patch, stop_at_training)
        # The last round's adapter after large steps, so that arms differ: untrained models seldom get better.
        parameters["policy_training"] = {**LAST_ROUND, **parameters.get("policy_training", {})}
        if stop_at_training is None:
            calls.version = smoke.run(pipeline, **parameters)
        else:
            with pytest.raises(KeyboardInterrupt):
                smoke.run(pipeline, **parameters)
        return calls


def kept_rows(smoke: Smoke) -> dict[str, dict]:
    folder = smoke.root / "data" / "smoke" / "07_model_output" / "study_rows"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def child_runs(smoke: Smoke) -> list:
    client = mlflow.MlflowClient(smoke.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(experiments, "tags.`study.arm` != ''", order_by=["start_time ASC"])


@pytest.fixture(scope="module")
def interrupted(smoke):
    calls = study(smoke, stop_at_training=2)
    return calls, kept_rows(smoke), child_runs(smoke)


@pytest.fixture(scope="module")
def finished(smoke, interrupted):
    calls = study(smoke)
    return calls, kept_rows(smoke), child_runs(smoke)


def test_an_interrupted_study_has_kept_its_finished_rows(smoke, interrupted):
    calls, rows, _ = interrupted
    (row,) = rows.values()
    assert (row["arm"], row["seed"]) == ("default", 0)
    assert row["parameters"]["policy_training.seed"] == row["parameters"]["response_sampling.seed"] == 0
    assert {"greedy", "sampled"} == set(row["comparison"]["aligned"])
    assert [point["round"] for point in row["history"]] == [-1, 0, 1]
    assert calls == {**ALL_ONCE, "annotate": 2, "train": 2}, "the second arm takes the first one's responses"
    assert not list((smoke.root / "data" / "smoke" / "08_reporting").glob("ablation_comparison.json/*"))


def test_the_stopped_row_is_killed_in_mlflow_and_the_finished_one_is_not(smoke, interrupted):
    _, rows, runs = interrupted
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED"]
    assert [run.data.tags["study.arm"] for run in runs] == ["default", "rule-midpoint"]
    (row,) = rows.values()
    assert row["information"]["mlflow_run_id"] == runs[0].info.run_id
    client = mlflow.MlflowClient(smoke.tracking_uri)
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in runs}
    assert client.get_run(parent).info.status == "KILLED"


def test_a_row_is_an_mlflow_run_with_its_own_parameters_and_metrics(smoke, interrupted):
    _, rows, (first, second) = interrupted
    (row,) = rows.values()
    assert first.data.params["reward_annotation.rule"] == "posterior"
    assert second.data.params["reward_annotation.rule"] == "midpoint"
    assert first.data.params["policy_training.ppo.kl_coef"] == str(row["parameters"]["policy_training.ppo.kl_coef"])
    client = mlflow.MlflowClient(smoke.tracking_uri)
    assert len(client.get_metric_history(first.info.run_id, "training.token_reward")) == 2
    assert client.get_metric_history(first.info.run_id, "training.step.policy_loss")
    recall = row["comparison"]["aligned"]["sampled"]["recall"]["value"]
    assert first.data.metrics["benchmark.aligned.sampled.recall"] == recall
    parent = client.get_run(first.data.tags["mlflow.parentRunId"])
    assert not [name for name in parent.data.metrics if name.startswith(("training.", "benchmark."))]


def test_the_second_run_does_what_is_left_and_no_more(smoke, interrupted, finished):
    calls, rows, runs = finished
    assert calls == {**ALL_ONCE, "annotate": 3, "train": 3, "answer_base": 0, "answer_aligned": 3, "compare": 3}
    assert sorted((row["arm"], row["seed"]) for row in rows.values()) == [
        ("default", 0),
        ("default", 1),
        ("rule-midpoint", 0),
        ("rule-midpoint", 1),
    ]
    (first,) = interrupted[1]
    assert rows[first] == interrupted[1][first], "untouched"
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FINISHED", "FINISHED", "FINISHED"]


def test_the_comparison_holds_every_row_and_the_means(smoke, finished):
    _, rows, _ = finished
    result = smoke.record("ablation_comparison")
    assert [(row["arm"], row["seed"]) for row in result["rows"]] == [
        ("default", 0),
        ("rule-midpoint", 0),
        ("default", 1),
        ("rule-midpoint", 1),
    ]
    for row in result["rows"]:
        assert row["comparison"] == rows[row["key"]]["comparison"]
        assert row["comparison"]["aligned"] != row["comparison"]["base"]
        assert {"value", "low", "high"} == set(row["comparison"]["change"]["greedy"]["recall"])
    values = [
        row["comparison"]["aligned"]["sampled"]["recall"]["value"] for row in result["rows"] if row["arm"] == "default"
    ]
    summary = result["arms"]["default"]["aligned"]["sampled"]["recall"]
    assert summary["mean"] == pytest.approx(sum(values) / 2)
    assert summary["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    (base,) = result["base"]
    assert base["arms"] == ["default", "rule-midpoint"]
    assert all(row["comparison"]["base"] == base["metrics"] for row in result["rows"])


def test_the_plot_is_a_figure_that_kedro_viz_can_draw(smoke, finished):
    figure = smoke.record("ablation_plot")
    assert {trace["name"] for trace in figure["data"]} <= {"base", "default", "rule-midpoint"}
    assert figure["layout"]["title"]["text"].startswith("Hallucination against recall")


def test_a_row_is_what_the_stages_make_by_themselves(smoke, finished, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
    for stage in ("response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation"):
        smoke.run(stage, response_sampling={"seed": 1}, policy_training={"seed": 1, **LAST_ROUND})
    (row,) = [row for row in finished[1].values() if (row["arm"], row["seed"]) == ("default", 1)]
    compared = smoke.record("comparison")
    figures = {name: part for name, part in compared.items() if name not in ("categories", "examples")}
    assert row["comparison"] == figures


def test_a_finished_study_is_not_run_again_and_says_so(smoke, finished, monkeypatch):
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("fisao_pipeline.experiments.study")
    logger.addHandler(handler)
    try:
        calls = study(smoke)
    finally:
        logger.removeHandler(handler)
    assert not any(calls.values())
    skipped = [message for message in messages if "is not run again: kept since" in message]
    assert len(skipped) == 4 and "Row 1 of 4 (arm default, seed 0)" in skipped[0]
    assert len(child_runs(smoke)) == 5


def test_a_study_of_seeds_takes_the_rows_of_the_same_settings(smoke, finished):
    calls = study(smoke, "seed_study", seed_study={"seeds": [0, 1]})
    assert not any(calls.values())
    seeds, arms = smoke.record("seed_comparison"), smoke.record("ablation_comparison")
    assert seeds["arms"] == {"default": arms["arms"]["default"]}


def test_a_changed_arm_is_run_and_the_others_are_not(smoke, finished):
    arms = [{"name": "default", "set": {}}, {"name": "rule-midpoint", "set": {"reward_annotation.rule": "margin"}}]
    calls = study(smoke, ablation={"arms": arms, "seeds": [0]})
    assert calls == {**ALL_ONCE, "sample": 0, "answer_base": 0}
    new = [row for key, row in kept_rows(smoke).items() if key not in finished[1]]
    assert [row["parameters"]["reward_annotation.rule"] for row in new] == ["margin"]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"policy_training": {"ppo": {"learning_rate": 0.04}}}, {**ALL_ONCE, "sample": 0, "answer_base": 0}),
        ({"benchmark_evaluation": {"temperature": 0.9}}, {**ALL_ONCE, "sample": 0}),
        ({"response_sampling": {"temperature": 0.9}}, {**ALL_ONCE, "answer_base": 0}),
    ],
)
def test_other_settings_never_pick_up_a_row(smoke, finished, changed, wanted):
    arms = [{"name": "default", "set": {}}]
    assert study(smoke, ablation={"arms": arms, "seeds": [0]}, **changed) == wanted


def test_other_data_never_pick_up_a_row(smoke, finished, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
    wanted = {
        "ablation": {"arms": [{"name": "default", "set": {}}], "seeds": [0]},
        # Other splits of so few scenes may hold too few objects to ask about.
        "benchmark_evaluation": {"pope_images": 0},
    }
    study(smoke, **wanted)
    smoke.run("image_ingestion", image_ingestion={"seed": 5})
    try:
        assert study(smoke, **wanted) == ALL_ONCE
    finally:
        smoke.run("image_ingestion")
    assert not any(study(smoke, **wanted).values()), "the same data, the same row"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"policy_training.ppo.kl_ceof": 0.1}, r"arm 'wrong'.*policy_training\.ppo\.kl_ceof.*did you mean 'kl_coef'"),
        ({"policy_training.ppo.kl_coef": -1}, r"arm 'wrong'.*policy_training\.ppo\.kl_coef"),
    ],
)
def test_a_wrong_arm_is_an_error_before_anything_runs(smoke, finished, changes, names):
    arms = [{"name": "new", "set": {"policy_training.ppo.gamma": 0.5}}, {"name": "wrong", "set": changes}]
    before = kept_rows(smoke)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        calls = Calls(patch)
        with pytest.raises(ValueError, match=names):
            smoke.run("ablation", ablation={"arms": arms})
    assert not any(calls.values())
    assert kept_rows(smoke) == before


def test_a_failed_row_ends_the_run_when_all_else_is_kept_and_saved(smoke, finished, capsys):
    arms = [{"name": "default", "set": {}}, {"name": "broken", "set": {"policy_training.ppo.gamma": 0.5}}]
    real = CatalogStages.train

    def train(self, *args):
        if args[-1].policy_training.ppo.gamma == 0.5:
            raise ValueError("No pairs to learn from")
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        patch.setattr(CatalogStages, "train", train)
        with pytest.raises(RowsFailedError, match=r"1 rows failed(.|\n)*arm broken, seed 0: ValueError: No pairs"):
            smoke.run("ablation", policy_training=LAST_ROUND, ablation={"arms": arms[::-1], "seeds": [0]})
    result = smoke.record("ablation_comparison")
    assert [row["arm"] for row in result["rows"]] == ["default"]
    assert [(row["arm"], row["error"]) for row in result["failed"]] == [
        ("broken", "ValueError: No pairs to learn from")
    ]
    assert "| broken | 0 " in smoke.page("ablation_table")
    newest = {
        smoke.versions(name, "08_reporting")[-1]
        for name in (
            "ablation_comparison",
            "ablation_table",
            "ablation_plot",
            "ablation_budget_plot",
            "ablation_budget",
        )
    }
    assert len(newest) == 1, "table and figures of what is finished are of this run"
    assert "--from-nodes=run_ablation" in capsys.readouterr().err, "to go on is to run the study, not its check"
    last = child_runs(smoke)[-1]
    assert (last.data.tags["study.arm"], last.info.status) == ("broken", "FAILED")
    parent = mlflow.MlflowClient(smoke.tracking_uri).get_run(last.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FAILED"
    study(smoke, ablation={"arms": arms, "seeds": [0]})
    assert smoke.record("ablation_comparison")["failed"] == [], "mended, the same command runs it again"


def test_where_every_row_fails_there_is_no_table(smoke, finished, monkeypatch):
    def train(self, *args):
        raise ValueError("No pairs")

    arms = [{"name": "broken", "set": {"policy_training.ppo.gamma": 0.25}}]
    before = smoke.versions("ablation_comparison", "08_reporting")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
    monkeypatch.setattr(CatalogStages, "train", train)
    with pytest.raises(RowsFailedError, match="arm broken, seed 0: ValueError: No pairs"):
        smoke.run("ablation", ablation={"arms": arms, "seeds": [0]})
    assert smoke.versions("ablation_comparison", "08_reporting") == before


def test_table_and_images_are_saved_with_the_plot(smoke, finished):
    table = smoke.page("ablation_table")
    assert table.startswith("Written by `kedro run --pipelines=ablation`")
    for name in ("ablation_budget", "ablation_recall"):
        folder = smoke.folder(name, "08_reporting")
        image = folder / smoke.versions(name, "08_reporting")[-1] / folder.name
        assert image.read_bytes().startswith(b"\x89PNG")
    assert smoke.record("ablation_budget_plot")["layout"]["title"]["text"].startswith("The probe after")


def test_a_study_split_by_seeds_comes_to_the_same_table(smoke, finished):
    """`--params="ablation.seeds=[1]"` in one place, `[0]` in another; the rows are put together by the next run."""
    for seeds in ("[1]", "[0]"):
        given = _split_params(None, None, f"ablation.seeds={seeds}")
        assert not any(study(smoke, **given).values())
        assert {row["seed"] for row in smoke.record("ablation_comparison")["rows"]} == {int(seeds[1])}
    study(smoke)
    whole = smoke.record("ablation_comparison")
    assert [(row["arm"], row["seed"]) for row in whole["rows"]] == [
        ("default", 0),
        ("rule-midpoint", 0),
        ("default", 1),
        ("rule-midpoint", 1),
    ]
