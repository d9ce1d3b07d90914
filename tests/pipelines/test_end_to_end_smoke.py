"""The whole pipeline in the environment `smoke`, in a project of its own; then each stage again, alone."""

import html
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import mlflow
import pandas as pd
import plotly.io
import pytest
from click.testing import CliRunner, Result
from kedro.framework.cli.utils import find_run_command
from kedro.framework.startup import bootstrap_project
from peft import PeftModel
from tests.browsing import chromium, served, watched_page
from tests.smoke_project import TABLES, Smoke
from transformers import LlavaForConditionalGeneration

from fisao_pipeline.commands.cli import cli
from fisao_pipeline.models.verifier import EmbeddingVerifier
from fisao_pipeline.pocket.scenes import CATEGORIES

STAGES = ("image_ingestion", "response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation")
FIGURES = ("score_distributions", "reward_quality", "reward_shift")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    """Untrained models in place; nothing run yet."""
    return Smoke.make(tmp_path_factory.mktemp("smoke") / "project", mlflow_template)


@pytest.fixture(autouse=True)
def own_store(smoke, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)


def add_long_prompts(smoke: Smoke) -> None:
    """A second prompt for every other picture, far beyond the pocket model's context."""
    file = smoke.root / "data" / "smoke" / "01_raw" / "pocket_scenes" / "prompts.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows += [{**row, "prompt_id": f"long-{row['prompt_id']}", "prompt": "umbrella " * 300} for row in rows[::2]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def default_run(smoke) -> str:
    """The id of a run of everything, after the scenes were rendered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        smoke.run("pocket_world", tags=["scenes"])
        add_long_prompts(smoke)
        return smoke.run(benchmark_evaluation={"seed": 7})


def test_every_artifact_is_there_once(smoke, default_run):
    for name, layer in TABLES.items():
        assert smoke.versions(name, layer) == [default_run], name
    assert smoke.versions("comparison", "08_reporting") == [default_run]
    assert smoke.versions("policy_adapter", "06_models") == [default_run]


def test_the_same_run_again_keeps_everything(smoke, default_run):
    """What draws at random and what reads models is as fresh as any other."""
    again = smoke.run(benchmark_evaluation={"seed": 7})
    for name, layer in (*TABLES.items(), ("policy_adapter", "06_models"), ("report", "08_reporting")):
        assert smoke.versions(name, layer) == [default_run], name
    assert smoke.tracked(again).data.tags["kept.policy_adapter"] == default_run


NO_TORCH = """
import sys
from kedro.framework.cli.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
slow = {"torch", "transformers", "peft", "datasets"} & set(sys.modules)
sys.exit(f"imported {sorted(slow)}" if slow else 0)
"""


def test_a_run_with_nothing_to_do_imports_no_torch(smoke, default_run):
    command = [sys.executable, "-c", NO_TORCH, "run", "--env=smoke", "--pipelines=train"]
    done = subprocess.run(command, cwd=smoke.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.count("fresh, kept") >= 5


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_opens_in_plotly(smoke, default_run, name):
    figure = plotly.io.from_json(json.dumps(smoke.record(name)))
    assert figure.data or figure.layout.annotations
    assert figure.layout.title.text in smoke.page("report")


def test_the_report_shows_held_out_pictures(smoke, default_run):
    page = smoke.page("report")
    manifest, predictions = smoke.table("image_manifest"), smoke.table("predictions")
    shown = manifest[[f"<figcaption>{name}<br>" in page for name in manifest["file_name"]]]
    assert len(shown)
    assert set(shown["image_id"]) <= set(predictions["image_id"])
    assert page.count("data:image/webp;base64,") == page.count("<article")


def test_the_report_says_where_its_figures_come_from(smoke, default_run):
    page = smoke.page("report")
    for text in (default_run, smoke.tracked(default_run).info.run_id, "policy_training", "sha256:"):
        assert text in page
    for name in ("comparison", "predictions", "policy_adapter", "training_history", "responses", "image_manifest"):
        assert f'<th scope="row">{name}</th>' in page
    assert 'class="warning"' not in page, "all of one run"


@pytest.fixture(scope="module")
def site(smoke, default_run, tmp_path_factory) -> Path:
    """Kedro-Viz as plain files, built by the command, which has nothing to complain about."""
    output = tmp_path_factory.mktemp("site") / "kedro-viz"
    command = [sys.executable, "-m", "fisao_pipeline", "viz-site", "--env=smoke", f"--output={output}"]
    done = subprocess.run(command, cwd=smoke.root, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and str(output) in done.stdout, done.stderr
    assert "previewed" not in done.stdout + done.stderr
    assert "Layers" not in done.stdout + done.stderr
    return output


def test_every_artifact_has_a_preview_with_version_and_run(smoke, default_run, site):
    graph = json.loads((site / "api" / "main").read_text())
    assert {"raw", "pretrained"} == set(graph["layers"][:2]) and graph["layers"][-1] == "reporting"
    # What nodes hand on in memory has no layer.
    data = {node["name"]: node["id"] for node in graph["nodes"] if node["type"] == "data" and node["layer"]}
    assert {*TABLES, "policy_adapter", "policy_backbone", "response_shards", "report", "image_folder"} <= data.keys()
    run_id = smoke.tracked(default_run).info.run_id
    versioned = {*TABLES, *FIGURES, "policy_adapter", "verifier_baseline", "comparison_table", "report"}
    for name, number in data.items():
        shown = json.loads((site / "api" / "nodes" / number).read_text())
        assert shown["preview"], name
        if name in versioned:
            said = json.dumps(shown["preview"])
            assert f"version: {default_run}" in said and f"MLflow run: {run_id}" in said, name
        if name in TABLES:
            assert shown["stats"]["rows"] == len(smoke.table(name)), name


def test_kedro_viz_opens_with_the_stages_from_left_to_right(smoke, default_run, site):
    run_id = smoke.tracked(default_run).info.run_id
    with served(site) as address, chromium() as browser:
        page = watched_page(browser.new_context(viewport={"width": 1920, "height": 1080}))
        page.goto(address)
        page.locator(".pipeline-node").first.wait_for()
        page.wait_for_timeout(1500)  # it moves into place
        boxes = [page.locator(f".pipeline-node[data-id={stage}]").bounding_box() for stage in STAGES]
        assert all(left["x"] + left["width"] < right["x"] for left, right in pairwise(boxes))
        assert max(box["y"] for box in boxes) - min(box["y"] for box in boxes) < 200
        page.locator("[data-node-fullname=policy_adapter]").click()
        text = page.locator(".pipeline-text-renderer")
        lines = text.inner_text().splitlines()
        assert lines[:2] == [f"version: {default_run}", f"MLflow run: {run_id}"]
        page.get_by_text("Expand preview").click()
        whole = page.locator(".pipeline-text-renderer--modal").inner_text()
        assert f"image_manifest@{default_run}" in whole and "40 images, each by its hash" in whole
        # What a reader gets by the link that Kedro-Viz makes of a chosen artifact.
        page.goto(f"{address}?pid=__default__&sn=training_history")
        subtitle = page.locator(".js-plotly-plot .gtitle-subtitle")
        assert subtitle.text_content().startswith(f"version: {default_run}MLflow run: {run_id}")
        page.goto(f"{address}?pid=__default__&sn=image_folder")
        sheet = page.locator(".pipeline-metadata__plot-image")
        sheet.wait_for()
        assert sheet.evaluate("image => image.naturalWidth") > 500
        assert [said for said in page.trouble if not said.startswith("info: ")] == []
        assert [url for url in page.requests if not url.startswith((address, "blob:", "data:"))] == []


def test_the_comparison_is_a_table_for_a_paper_too(smoke, default_run):
    table = smoke.page("comparison_table")
    assert "greedy decoding: " in table and "| CHAIR_i, % ↓ " in table and "Settings: up to 24 tokens" in table


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


def shards(smoke, entry: str = "07_model_output/prediction_shards") -> list[str]:
    return sorted(path.name for path in (smoke.root / "data" / "smoke" / entry).glob("[!.]*"))


def test_parts_of_answers_are_kept_until_they_are_saved(smoke, default_run, monkeypatch):
    """An evaluation that fails is gone on with: what it answered is not asked again, and then nothing is left."""
    assert shards(smoke) == []
    from fisao_pipeline.models.policy import Policy

    real, calls = Policy.sample, []

    def sample(self, *arguments, **options):
        calls.append(len(calls))
        if len(calls) == 5:
            raise RuntimeError("the GPU is gone")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Policy, "sample", sample)
    changed = {"seed": 7, "responses_per_shard": 4, "batch_size": 8}
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        smoke.run("benchmark_evaluation", benchmark_evaluation=changed)
    kept, before = shards(smoke), smoke.versions("predictions", "07_model_output")
    assert len(kept) >= 4 and calls[-1] == 4
    smoke.run("benchmark_evaluation", benchmark_evaluation=changed)
    resumed, asked = smoke.table("predictions"), len(calls) - 5
    assert smoke.versions("predictions", "07_model_output")[:-1] == before
    assert shards(smoke) == [], "what is saved is not kept twice"
    calls[:] = range(10)
    smoke.run("benchmark_evaluation", force=True, benchmark_evaluation=changed)
    pd.testing.assert_frame_equal(smoke.table("predictions"), resumed)
    assert len(calls) - 10 == asked + 4


def test_responses_are_kept_by_part_until_they_are_saved(smoke, default_run, monkeypatch):
    from fisao_pipeline.models.policy import Policy

    real, calls = Policy.sample, []

    def sample(self, *arguments, **options):
        calls.append(len(calls))
        if len(calls) == 2:
            raise RuntimeError("the GPU is gone")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Policy, "sample", sample)
    by_batch = {"responses_per_shard": 1}
    with pytest.raises(RuntimeError, match="the GPU is gone"):
        smoke.run("response_sampling", response_sampling=by_batch)
    assert len(shards(smoke, "04_feature/response_shards")) == 1
    smoke.run("response_sampling", response_sampling=by_batch)
    assert len(calls) == 3, "the first of the two batches is not drawn again"
    assert shards(smoke, "04_feature/response_shards") == []
    pd.testing.assert_frame_equal(smoke.table("responses"), smoke.table("responses", default_run))


def test_a_training_that_is_stopped_goes_on_by_the_command_that_it_prints(smoke, default_run, monkeypatch, caplog):
    from fisao_pipeline.training import ppo

    real, steps = ppo._update, []

    def update(*arguments):
        steps.append(len(steps))
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(ppo, "_update", update)
    options = ["--pipelines=policy_training", "--params=policy_training.checkpoint_every_steps=1"]
    before = smoke.versions("policy_adapter", "06_models")
    done = in_this_process(smoke, monkeypatch, *options)
    assert done.exit_code == 130
    assert "Stopped after 1 of 2 rounds and 1 steps of the next (3 optimiser steps in all)" in caplog.text
    (command,) = (line for line in done.stderr.splitlines() if line.startswith("kedro run"))
    assert "--from-nodes=train_policy" in command and "policy_training.checkpoint_every_steps=1" in command
    assert len(shards(smoke, "06_models/training_checkpoints")) == 2
    assert len(shards(smoke, "04_feature/response_shards")) == 1
    assert smoke.versions("policy_adapter", "06_models") == before
    done = in_this_process(smoke, monkeypatch, *command.removeprefix("kedro run --env=smoke ").split())
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert "Going on from a checkpoint" in caplog.text and len(steps) == 5
    for kept in ("06_models/training_checkpoints", "04_feature/response_shards"):
        assert shards(smoke, kept) == [], "what is saved is not kept twice"
    folder = smoke.folder("policy_adapter", "06_models")
    (*_, latest) = smoke.versions("policy_adapter", "06_models")
    for name in ("adapter_model.safetensors", "training_run.json"):
        files = [folder / version / "policy_adapter" / name for version in (default_run, latest)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    times = ["seconds", "tokens_per_second"]
    histories = [smoke.table("training_history", version).drop(columns=times) for version in (default_run, latest)]
    pd.testing.assert_frame_equal(*histories)
    pd.testing.assert_frame_equal(*(smoke.table("training_rollouts", version) for version in (default_run, latest)))


def test_beam_search_is_a_decoding_like_the_others(smoke, default_run):
    smoke.run("benchmark_evaluation", benchmark_evaluation={"decodings": ["beam", "greedy"], "num_beams": 3})
    comparison = smoke.record("comparison")
    assert set(comparison["base"]) == set(comparison["categories"]) == {"beam", "greedy"}
    assert comparison["settings"]["num_beams"] == 3
    assert set(smoke.table("predictions")["decoding"]) == {"beam", "greedy"}


def test_runs_are_compared_by_version_and_refused_where_they_were_not_made_alike(smoke, default_run, monkeypatch):
    latest = smoke.run("benchmark_evaluation", benchmark_evaluation={"seed": 7, "max_new_tokens": 12})
    with pytest.raises(ValueError, match="- max_new_tokens: first 24, again 12"):
        smoke.run("compare_runs", compare_runs={"runs": {"first": default_run, "again": "latest"}})
    assert not (smoke.root / "data" / "smoke" / "08_reporting" / "runs_table.md").exists()
    runs = f"compare_runs.runs.base.predictions={latest},compare_runs.runs.base.model=base"
    runs += f",compare_runs.runs.first={default_run},compare_runs.runs.again=latest"
    runs += ",compare_runs.allow_different=[max_new_tokens]"
    done = in_this_process(smoke, monkeypatch, "--pipeline=compare_runs", f"--params={runs}")
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    found, own = smoke.record("runs_comparison"), smoke.record("comparison")
    assert found["reference"] == "base" and list(found["pairs"]) == ["first", "again"]
    for decoding in ("greedy", "sampled"):
        assert found["pairs"]["again"]["change"][decoding]["recall"] == own["change"][decoding]["recall"]
    assert found["runs"]["first"]["settings"]["max_new_tokens"] == 24
    assert "- max_new_tokens: base 12, first 24, again 12" in smoke.page("runs_table")


def test_the_run_is_tracked_with_parameters_metrics_and_tags(smoke, default_run):
    run = smoke.tracked(default_run)
    assert run.info.status == "FINISHED"
    assert run.data.params["policy_training.ppo.clip_range"]
    assert run.data.params["policy_training.rounds"] == "2"
    assert run.data.params["reward_annotation.calibration"] == "fixed"
    assert {"training.token_reward", "training.kl", "training.approx_kl"} <= set(run.data.metrics)
    recall = smoke.record("comparison")["base"]["sampled"]["recall"]["value"]
    assert run.data.metrics["benchmark.base.sampled.recall"] == recall
    (point,) = mlflow.MlflowClient(smoke.tracking_uri).get_metric_history(
        run.info.run_id, "benchmark.base.sampled.recall"
    )
    assert point.step == 0, "one point a run, whatever the seed"
    tags = run.data.tags
    assert tags["output.policy_adapter"] == tags["output.comparison"] == default_run
    assert tags["input.policy_backbone"].startswith("sha256:")
    client = mlflow.MlflowClient(smoke.tracking_uri)
    assert len(client.get_metric_history(run.info.run_id, "training.token_reward")) == 2
    steps = client.get_metric_history(run.info.run_id, "training.step.policy_loss")
    assert [point.step for point in steps] == list(range(1, int(smoke.table("training_history")["updates"].sum()) + 1))


def artifacts_of(smoke: Smoke, session_id: str) -> dict[str, list[str]]:
    """Files of an MLflow run, by folder."""
    client, run_id = mlflow.MlflowClient(smoke.tracking_uri), smoke.tracked(session_id).info.run_id
    folders = [each.path for each in client.list_artifacts(run_id) if each.is_dir]
    return {folder: [each.path for each in client.list_artifacts(run_id, folder)] for folder in folders}


def test_figures_and_report_are_files_of_the_run_that_made_them(smoke, default_run):
    drawn = {name: [f"{name}/{name}.json"] for name in ("score_distributions", "reward_quality")}
    judged = {
        "reward_shift": ["reward_shift/reward_shift.json"],
        "report": ["report/report.html"],
        "comparison_table": ["comparison_table/comparison_table.md"],
    }
    assert artifacts_of(smoke, default_run) == drawn | judged
    evaluation = smoke.run("benchmark_evaluation", force=True)
    assert artifacts_of(smoke, evaluation) == judged
    place = smoke.tracked(evaluation).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{place}/report/report.html") == smoke.page("report")


def test_the_report_holds_the_tree_down_to_the_pictures(smoke, default_run, monkeypatch):
    page, tags = html.unescape(smoke.page("report", default_run)), smoke.tracked(default_run).data.tags
    for name in ("image_folder", "image_manifest", "policy_adapter"):
        assert tags[f"content.{name}"].startswith("sha256:") and tags[f"content.{name}"] in page, name
    monkeypatch.chdir(smoke.root)
    printed = CliRunner().invoke(cli, ["lineage", f"report@{default_run}", "--env=smoke"])
    assert printed.exit_code == 0, printed.output
    assert "\n".join(printed.output.splitlines()[1:]) in page


def test_from_an_adapter_in_the_registry_to_its_pictures_and_back(smoke, default_run):
    """By ids that are copied from one place to the next, in MLflow alone."""
    client = mlflow.MlflowClient(smoke.tracking_uri, smoke.tracking_uri)
    (registered,) = client.search_registered_models()
    assert registered.name == "fisao-smoke-pocket_vlm"
    version = client.get_model_version(registered.name, "1")
    assert version.tags["version"] == default_run and version.run_id == smoke.tracked(default_run).info.run_id
    run = client.get_run(version.run_id)
    inputs = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    manifest = {tag.key: tag.value for tag in inputs["image_manifest"].tags}
    maker = client.get_run(manifest["mlflow_run_id"])
    pictures = next(each for each in maker.inputs.dataset_inputs if each.dataset.name == "image_folder")
    assert json.loads(pictures.dataset.source) == {"uri": "data/smoke/01_raw/pocket_scenes/images"}
    tags = {tag.key: tag.value for tag in pictures.tags}
    assert tags["mlflow.data.context"] == "check_images"
    assert {"check_images", "sample_responses", "train_policy"} <= set(tags["nodes"].split(", "))
    assert maker.data.tags["content.image_manifest"] == manifest["content"]
    (back,) = client.search_runs(
        [run.info.experiment_id],
        f"dataset.name = 'image_folder' and dataset.digest = '{pictures.dataset.digest}'"
        " and tags.`output.policy_adapter` LIKE '%'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    (model,) = client.get_run(back.info.run_id).outputs.model_outputs
    assert client.get_logged_model(model.model_id).tags["content"] == version.tags["content"]
    assert {"policy_backbone", "verifier", "prompts", "responses", "token_rewards"} <= inputs.keys()


def test_the_adapter_opens_in_peft(smoke, default_run):
    backbone = smoke.root / "data" / "smoke" / "06_models" / "pocket_vlm"
    adapter = smoke.folder("policy_adapter", "06_models") / default_run / "policy_adapter"
    model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(backbone), str(adapter))
    assert any("lora_B" in name for name, _ in model.named_parameters())


def test_prompts_that_are_too_long_are_listed_and_never_asked(smoke, default_run):
    prompts, rejected = smoke.table("prompts"), smoke.table("rejected_prompts")
    too_long = set(prompts.loc[prompts["prompt_id"].str.startswith("long-"), "prompt_id"])
    assert set(prompts.loc[prompts["prompt_id"].isin(too_long), "split"]) >= {"calibration", "training", "held_out"}
    assert set(rejected["name"]) == too_long and list(rejected) == list(smoke.table("rejected_images"))
    assert rejected["reason"].str.startswith("prompt too long: ").all()
    for name in ("responses", "training_rollouts", "predictions"):
        assert not set(smoke.table(name)["prompt_id"]) & too_long, name
    held_out = set(prompts.loc[prompts["split"] == "held_out", "prompt_id"])
    assert set(smoke.table("rejected_questions")["name"]) == too_long & held_out


def test_what_the_annotations_declare_reaches_the_figures(smoke, default_run):
    folder = smoke.folder("annotated_categories", "02_intermediate")
    declared = json.loads((folder / default_run / folder.name).read_text())
    assert declared == sorted(CATEGORIES)
    assert smoke.record("comparison")["settings"]["annotated_categories"] == len(CATEGORIES)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_runs_again_alone_from_the_artifacts(smoke, default_run, stage, monkeypatch):
    """And embeds no text of the verifier again, but for the one that shows whether those kept are its own."""
    embedded, embed = [], EmbeddingVerifier._embed_text

    def note(self, text):
        embedded.append(text)
        return embed(self, text)

    monkeypatch.setattr(EmbeddingVerifier, "_embed_text", note)
    outputs = {
        "response_sampling": [("responses", "04_feature"), ("rejected_prompts", "04_feature")],
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
            ("rejected_questions", "07_model_output"),
            ("prediction_mentions", "07_model_output"),
            ("verifier_errors", "08_reporting"),
            ("reward_shift", "08_reporting"),
            ("report", "08_reporting"),
            ("comparison_table", "08_reporting"),
        ],
    }[stage]
    untouched = [(n, layer) for n, layer in TABLES.items() if n not in {name for name, _ in outputs}]
    before = {name: smoke.versions(name, layer) for name, layer in untouched}
    version = smoke.run(stage, force=True)
    assert len(embedded) == (0 if stage == "response_sampling" else 1), embedded
    for name, layer in outputs:
        assert smoke.versions(name, layer)[-1] == version, name
    made = {"training_rollouts"} if stage == "policy_training" else set()
    for name, layer in untouched:
        assert name in made or smoke.versions(name, layer) == before[name], name


def test_the_same_seed_gives_the_same_adapter(smoke, default_run):
    version = smoke.run("policy_training", force=True)
    folder = smoke.folder("policy_adapter", "06_models")
    weights = [
        (folder / v / "policy_adapter" / "adapter_model.safetensors").read_bytes() for v in (default_run, version)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"trainer": "dpo"}, "pairs"),
        ({"trainer": "dpo", "dpo": {"ranked_by": "annotations"}}, "pairs"),
        ({"trainer": "rejection_sampling"}, "chosen"),
    ],
)
def test_the_comparison_trainers_start_from_the_same_first_round(smoke, default_run, changes, count):
    smoke.run("policy_training")
    by_ppo = smoke.table("training_history")
    tracked = smoke.tracked(smoke.run("policy_training", policy_training=changes))
    history = smoke.table("training_history")
    for same in ("token_reward", "response_tokens", "sampled_tokens"):
        assert history.loc[1, same] == pytest.approx(by_ppo.loc[1, same]), same
    assert (history["sampled_tokens"].diff().iloc[1:] > 0).all()
    assert history.loc[1, count] > 0
    assert tracked.data.params["policy_training.trainer"] == changes["trainer"]
    assert tracked.data.metrics[f"training.{count}"] == history[count].iloc[-1]


def test_training_on_rewards_of_other_settings_is_refused(smoke, default_run):
    before = smoke.versions("policy_adapter", "06_models")
    message = (
        r"reward_annotation\.false_mention_cost was 1\.5 and is 3\.0.*--pipelines=reward_annotation,policy_training"
    )
    with pytest.raises(ValueError, match=message):
        smoke.run("policy_training", reward_annotation={"false_mention_cost": 3.0})
    assert smoke.versions("policy_adapter", "06_models") == before


def test_the_evaluation_shows_what_the_policy_was_trained_on(smoke, default_run):
    """Whatever the parameters say by then."""
    smoke.run("benchmark_evaluation")
    before = smoke.table("prediction_mentions")
    changed = {"false_mention_cost": 3.0, "template": "no {} at all"}
    smoke.run("benchmark_evaluation", force=True, reward_annotation=changed)
    pd.testing.assert_frame_equal(smoke.table("prediction_mentions"), before)
    assert "no {} at all" not in smoke.page("report")


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
    done = kedro(smoke, "--pipelines=reward_annotation", "--params=runtime.force=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(smoke.versions("object_mentions", "04_feature")) == len(before) + 1


def in_this_process(smoke: Smoke, monkeypatch, *arguments: str) -> Result:
    """A command without the seconds that a process of its own takes to import everything."""
    monkeypatch.chdir(smoke.root)
    bootstrap_project(smoke.root)
    return CliRunner().invoke(find_run_command("fisao_pipeline"), ["--env=smoke", *arguments])


def test_a_stage_runs_by_the_older_spelling_of_the_option(smoke, default_run, monkeypatch):
    before = smoke.versions("object_mentions", "04_feature")
    done = in_this_process(smoke, monkeypatch, "--pipeline=reward_annotation", "--params=runtime.force=true")
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
