"""The whole pipeline in the environment `smoke`, in a project of its own; then each stage again, alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import plotly.io
import pytest
from click.testing import CliRunner, Result
from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import settings
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from peft import PeftModel
from tests.pocket_models import build_pocket_models
from transformers import LlavaForConditionalGeneration

PROJECT = Path(__file__).parents[2]
STAGES = ("image_ingestion", "response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation")
TABLES = {
    "image_manifest": "02_intermediate",
    "rejected_images": "02_intermediate",
    "prompts": "03_primary",
    "responses": "04_feature",
    "object_mentions": "04_feature",
    "response_scores": "04_feature",
    "token_rewards": "05_model_input",
    "training_history": "07_model_output",
    "training_rollouts": "07_model_output",
    "predictions": "07_model_output",
    "prediction_mentions": "07_model_output",
}
FIGURES = ("score_distributions", "reward_quality", "reward_shift")


class Smoke:
    """A project in a temporary folder with this package's configuration, and what was run in it."""

    def __init__(self, root: Path, tracking_uri: str):
        self.root, self.tracking_uri = root, tracking_uri

    def run(self, pipeline: str | None = None, **parameters) -> str:
        """Run in this process; returns the session's id."""
        bootstrap_project(self.root)
        before = Path.cwd()
        os.chdir(self.root)
        try:
            with settings.SESSION_CLASS.create(
                project_path=self.root, env="smoke", runtime_params=parameters
            ) as session:
                assert isinstance(session, KedroSession)
                session.run(pipeline_names=[pipeline] if pipeline else None)
                return session.session_id
        finally:
            os.chdir(before)

    def folder(self, name: str, layer: str) -> Path:
        (found,) = (
            (self.root / "data" / "smoke" / layer).glob(f"{name}.*")
            if name != "policy_adapter"
            else (self.root / "data" / "smoke" / layer / name,)
        )
        return found

    def versions(self, name: str, layer: str) -> list[str]:
        return sorted(path.name for path in self.folder(name, layer).iterdir() if not path.name.startswith("."))

    def table(self, name: str) -> pd.DataFrame:
        folder = self.folder(name, TABLES[name])
        return pd.read_parquet(folder / self.versions(name, TABLES[name])[-1] / folder.name)

    def record(self, name: str) -> dict:
        folder = self.folder(name, "08_reporting")
        return json.loads((folder / self.versions(name, "08_reporting")[-1] / folder.name).read_text())

    def page(self, name: str) -> str:
        folder = self.folder(name, "08_reporting")
        return (folder / self.versions(name, "08_reporting")[-1] / folder.name).read_text()

    def tracked(self, session_id: str):
        client = mlflow.MlflowClient(self.tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.kedro_session_id = '{session_id}'")
        return run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    """Scenes rendered, untrained models in place; nothing run yet."""
    root = tmp_path_factory.mktemp("smoke") / "project"
    shutil.copytree(PROJECT / "conf", root / "conf", ignore=shutil.ignore_patterns("local"))
    (root / "conf" / "local").mkdir()
    (root / "src").mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, root / name)
    store = root / "data" / "smoke" / "mlflow" / "mlflow.db"
    store.parent.mkdir(parents=True)
    shutil.copy(mlflow_template, store)
    build_pocket_models(root / "data" / "smoke" / "06_models")
    return Smoke(root, f"sqlite:///{store}")


@pytest.fixture(autouse=True)
def own_store(smoke, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)


@pytest.fixture(scope="module")
def default_run(smoke) -> str:
    """The id of a run of everything, after the scenes were rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        bootstrap_project(smoke.root)
        before = Path.cwd()
        os.chdir(smoke.root)
        try:
            with settings.SESSION_CLASS.create(project_path=smoke.root, env="smoke") as session:
                session.run(pipeline_names=["pocket_world"], tags=["scenes"])
        finally:
            os.chdir(before)
        return smoke.run()


def test_every_artifact_is_there_once(smoke, default_run):
    for name, layer in TABLES.items():
        assert smoke.versions(name, layer) == [default_run], name
    assert smoke.versions("comparison", "08_reporting") == [default_run]
    assert smoke.versions("policy_adapter", "06_models") == [default_run]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_opens_in_plotly(smoke, default_run, name):
    figure = plotly.io.from_json(json.dumps(smoke.record(name)))
    assert figure.data or figure.layout.annotations
    assert figure.layout.title.text in smoke.page("figures_page")


def test_the_case_study_shows_held_out_pictures(smoke, default_run):
    page = smoke.page("case_study")
    manifest, predictions = smoke.table("image_manifest"), smoke.table("predictions")
    shown = manifest[[f"<figcaption>{name}</figcaption>" in page for name in manifest["file_name"]]]
    assert len(shown)
    assert set(shown["image_id"]) <= set(predictions["image_id"])
    assert page.count("data:image/jpeg;base64,") == page.count("<figcaption>")


def test_nothing_is_written_outside_the_environments_folder(smoke, default_run):
    assert [path.name for path in (smoke.root / "data").iterdir()] == ["smoke"]


def test_the_artifacts_belong_together(smoke, default_run):
    prompts, responses, rewards = (smoke.table(name) for name in ("prompts", "responses", "token_rewards"))
    assert set(responses["prompt_id"]) <= set(prompts["prompt_id"])
    assert responses["response_id"].tolist() == rewards["response_id"].tolist()
    assert responses["token_ids"].str.len().tolist() == rewards["token_rewards"].str.len().tolist()
    assert set(responses["split"]) == {"calibration", "training"}
    mentions = smoke.table("object_mentions")
    rewarded = {r for r, row in zip(rewards["response_id"], rewards["token_rewards"], strict=True) if any(row)}
    assert rewarded <= set(mentions["response_id"])
    held_out = set(prompts.loc[prompts["split"] == "held_out", "image_id"])
    assert set(smoke.table("predictions")["image_id"]) <= held_out
    assert not set(smoke.table("training_rollouts")["image_id"]) & held_out
    history = smoke.table("training_history")
    assert history["round"].tolist() == [-1, 0, 1]
    assert history["kept"].sum() == 1
    assert history["logprob_gap"].max() < 1e-3


def test_the_comparison_has_its_keys(smoke, default_run):
    comparison = smoke.record("comparison")
    for model in ("base", "aligned", "change"):
        for decoding in ("greedy", "sampled"):
            metrics = comparison[model][decoding]
            wanted = {"chair_i", "chair_s", "recall", "repeated_mentions", "pope_accuracy"}
            assert wanted <= set(metrics), (model, decoding)
            assert all({"value", "low", "high"} <= set(metrics[name]) for name in wanted)
            for name in wanted:
                value, low, high = (metrics[name][key] for key in ("value", "low", "high"))
                assert value is None or low is None or low <= value <= high, (model, decoding, name)


def test_the_run_is_tracked_with_parameters_metrics_and_tags(smoke, default_run):
    run = smoke.tracked(default_run)
    assert run.info.status == "FINISHED"
    assert run.data.params["policy_training.ppo.clip_range"]
    assert run.data.params["policy_training.rounds"] == "2"
    assert run.data.params["reward_annotation.calibration"] == "fixed"
    assert {"training.token_reward", "training.kl", "training.approx_kl"} <= set(run.data.metrics)
    recall = smoke.record("comparison")["base"]["sampled"]["recall"]["value"]
    assert run.data.metrics["benchmark.base.sampled.recall"] == recall
    tags = run.data.tags
    assert tags["output.policy_adapter"] == tags["output.comparison"] == default_run
    assert tags["input.policy_backbone"].startswith("sha256:")
    client = mlflow.MlflowClient(smoke.tracking_uri)
    assert len(client.get_metric_history(run.info.run_id, "training.token_reward")) == 2


def test_the_adapter_opens_in_peft(smoke, default_run):
    backbone = smoke.root / "data" / "smoke" / "06_models" / "pocket_vlm"
    adapter = smoke.folder("policy_adapter", "06_models") / default_run / "policy_adapter"
    model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(backbone), str(adapter))
    assert any("lora_B" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_runs_again_alone_from_the_artifacts(smoke, default_run, stage):
    outputs = {
        "response_sampling": [("responses", "04_feature")],
        "reward_annotation": [
            ("object_mentions", "04_feature"),
            ("response_scores", "04_feature"),
            ("token_rewards", "05_model_input"),
            ("score_distributions", "08_reporting"),
            ("reward_quality", "08_reporting"),
        ],
        "policy_training": [("policy_adapter", "06_models"), ("training_history", "07_model_output")],
        "benchmark_evaluation": [
            ("comparison", "08_reporting"),
            ("predictions", "07_model_output"),
            ("prediction_mentions", "07_model_output"),
            ("reward_shift", "08_reporting"),
            ("case_study", "08_reporting"),
        ],
    }[stage]
    untouched = [(n, layer) for n, layer in TABLES.items() if n not in {name for name, _ in outputs}]
    before = {name: smoke.versions(name, layer) for name, layer in untouched}
    version = smoke.run(stage)
    for name, layer in outputs:
        assert smoke.versions(name, layer)[-1] == version, name
    made = {"training_rollouts"} if stage == "policy_training" else set()
    for name, layer in untouched:
        assert name in made or smoke.versions(name, layer) == before[name], name


def test_the_same_seed_gives_the_same_adapter(smoke, default_run):
    version = smoke.run("policy_training")
    folder = smoke.folder("policy_adapter", "06_models")
    weights = [
        (folder / v / "policy_adapter" / "adapter_model.safetensors").read_bytes() for v in (default_run, version)
    ]
    assert weights[0] == weights[1]


def kedro(smoke: Smoke, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--env=smoke", *arguments],
        cwd=smoke.root,
        env={**os.environ, "COLUMNS": "500", "TERMINAL_WIDTH": "500"},
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_stage_runs_from_the_command_line(smoke, default_run):
    before = smoke.versions("object_mentions", "04_feature")
    done = kedro(smoke, "--pipelines=reward_annotation")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(smoke.versions("object_mentions", "04_feature")) == len(before) + 1


def in_this_process(smoke: Smoke, monkeypatch, *arguments: str) -> Result:
    """The same command without the seconds that a process of its own takes to import everything."""
    monkeypatch.chdir(smoke.root)
    bootstrap_project(smoke.root)
    return CliRunner().invoke(find_run_command("fisao_pipeline"), ["--env=smoke", *arguments])


def test_a_stage_runs_by_the_older_spelling_of_the_option(smoke, default_run, monkeypatch):
    before = smoke.versions("object_mentions", "04_feature")
    done = in_this_process(smoke, monkeypatch, "--pipeline=reward_annotation")
    assert done.exit_code == 0, done.output
    assert len(smoke.versions("object_mentions", "04_feature")) == len(before) + 1


@pytest.mark.parametrize(
    ("stage", "wrong", "names"),
    [
        ("policy_training", {"policy_training": {"ppo": {"clip_rnage": 0.1}}}, "clip_rnage"),
        ("policy_training", {"policy_training": {"ppo": {"clip_range": 2.0}}}, "clip_range"),
        ("response_sampling", {"response_sampling": {"temperature": 0.0}}, "temperature"),
        (None, {"benchmark_evaluation": {"samples": 3}}, "samples"),
    ],
)
def test_a_wrong_parameter_stops_the_run_before_any_node(smoke, default_run, stage, wrong, names):
    before = {name: smoke.versions(name, layer) for name, layer in TABLES.items()}
    with pytest.raises(Exception, match=names):
        smoke.run(stage, **wrong)
    assert {name: smoke.versions(name, layer) for name, layer in TABLES.items()} == before


def test_a_wrong_parameter_is_named_on_the_command_line(smoke, default_run, monkeypatch):
    before = {name: smoke.versions(name, layer) for name, layer in TABLES.items()}
    done = in_this_process(smoke, monkeypatch, "--pipelines=train", "--params=policy_training.ppo.clip_rnage=0.1")
    assert done.exit_code != 0
    assert "clip_rnage" in f"{done.output} {done.exception}"
    assert {name: smoke.versions(name, layer) for name, layer in TABLES.items()} == before
