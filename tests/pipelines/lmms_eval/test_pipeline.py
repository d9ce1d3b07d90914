"""`kedro run --pipelines=lmms_eval`: with a program that stands in for lmms-eval, and with lmms-eval where it is."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from kedro.io import DatasetError, Version
from tests.pocket_models import PocketWorld, stir
from tests.smoke_project import PROJECT, Smoke

from fisao_pipeline.datasets import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import identity
from fisao_pipeline.pipelines.lmms_eval.harness import HarnessError

STAND_IN = Path(__file__).with_name("lmms_eval_stand_in.py")
LMMS_PYTHON = PROJECT / ".venv-lmms" / "bin" / "python"


def put_models(models: Path) -> None:
    """The shipped VLM, which sees, and an adapter for it."""
    for name in ("pocket_vlm", "pocket_verifier"):
        shutil.copytree(PROJECT / "data" / "06_models" / name, models / name)
    world = PocketWorld.make(models)
    config, state = stir(world.policy()).adapter_state()
    dataset = AdapterFolderDataset(filepath=str(models / "policy_adapter"), version=Version(None, "2026-01-01"))
    dataset.save(AdapterArtifact(config, state, "# Adapter\n", identity(world.policy_source)))


@pytest.fixture(scope="module")
def project(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("lmms") / "project", mlflow_template, put_models)


@pytest.fixture(autouse=True)
def own_store(project, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)


@pytest.fixture
def stand_in(tmp_path, project) -> Path:
    """A program of its own for each test, and no results of others."""
    shutil.rmtree(results(project), ignore_errors=True)
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    return program


def results(project: Smoke) -> Path:
    return project.root / "data" / "smoke" / "07_model_output" / "lmms_results"


def calls(program: Path) -> list[dict]:
    path = program.with_name("calls.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(project: Smoke, program: Path, **more) -> str:
    block = {"python": str(program), "tasks": ["mme", "gqa"], "bootstrap_resamples": 100, **more}
    return project.run("lmms_eval", lmms_eval=block)


def test_each_task_of_each_model_is_measured_and_compared(project, stand_in, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", "of_this_environment")
    session = run(project, stand_in, limit=2, model_args={"attn_implementation": "eager"})
    seen = calls(stand_in)
    assert [(call["task"], "merged" in call["weights"]) for call in seen] == [
        ("mme", False),
        ("gqa", False),
        ("mme", True),
        ("gqa", True),
    ]
    assert all(call["environment"] == {"HF_HUB_OFFLINE": "1", "PYTHONPATH": None} for call in seen)
    arguments = seen[0]["arguments"]
    assert arguments[arguments.index("--model") + 1] == "llava_hf"
    assert ",device_map=cpu,dtype=float32,attn_implementation=eager" in arguments[arguments.index("--model_args") + 1]
    assert arguments[arguments.index("--limit") + 1] == "2"
    comparison = project.record("lmms_comparison")
    assert comparison["change"]["gqa"]["exact_match"]["value"] == 0.5
    assert comparison["settings"]["harness"] == "lmms-eval 0.7.3"
    assert comparison["settings"]["adapter"] == "2026-01-01"
    assert project.tracked(session).data.metrics["lmms_eval.change.mme.exact_match"] == 0.5
    assert not list(results(project).glob("merged-*")), "a whole model is not left behind"
    said = capfd.readouterr()
    assert "| mme  | 2         | exact_match" in said.out
    assert "Model Responding:  50%" in said.err


def test_what_was_measured_is_not_measured_again_and_other_settings_are(project, stand_in):
    run(project, stand_in)
    assert len(calls(stand_in)) == 4
    run(project, stand_in)
    assert len(calls(stand_in)) == 4
    run(project, stand_in, tasks=["mme", "gqa", "seedbench"])
    assert [call["task"] for call in calls(stand_in)[4:]] == ["seedbench", "seedbench"]
    run(project, stand_in, limit=1)
    assert len(calls(stand_in)) == 10


def test_an_adapter_elsewhere_is_given_by_its_path(project, stand_in, tmp_path):
    adapter = shutil.copytree(
        project.root / "data/smoke/06_models/policy_adapter/2026-01-01/policy_adapter", tmp_path / "a"
    )
    run(project, stand_in, tasks=["gqa"], adapter=str(adapter))
    assert project.record("lmms_comparison")["settings"]["adapter"] == str(adapter)
    with pytest.raises(DatasetError, match=r"'none' is neither a version of 'policy_adapter' \(there are 2026-01-01\)"):
        run(project, stand_in, adapter="none")
    with pytest.raises(ValueError, match=r"holds no adapter_config.json, so it is no PEFT adapter"):
        run(project, stand_in, adapter=str(tmp_path))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("fail", r"ended with 0 and without results, task 'mme'. The end of (?s:.)*Tasks not found: no_such_task"),
        ("lose", r"lost 1 answers(?s:.)*\nError CUDA out of memory in generating"),
    ],
)
def test_a_run_that_fails_says_the_end_of_its_log_and_is_taken_up(project, stand_in, how, message):
    stand_in.with_name(how).touch()
    with pytest.raises(HarnessError, match=message):
        run(project, stand_in)
    assert len(list(results(project).glob("base-mme-*/log.txt"))) == 1
    stand_in.with_name(how).unlink()
    run(project, stand_in)
    assert [call["task"] for call in calls(stand_in)] == ["mme", "mme", "gqa", "mme", "gqa"]


def test_without_the_environment_it_is_said_how_to_make_it(project, tmp_path):
    for program in (tmp_path / "nowhere" / "python", Path(shutil.which("false"))):
        with pytest.raises(HarnessError, match="has no lmms-eval; `make lmms-env` makes"):
            run(project, program)


def test_a_kind_of_model_that_is_not_listed_is_refused(project, stand_in):
    # Soft merging keeps the kinds of the file, so the backbone's is changed.
    config = project.root / "data/smoke/06_models/pocket_vlm/config.json"
    whole = config.read_text()
    config.write_text(json.dumps({**json.loads(whole), "model_type": "paligemma"}))
    try:
        with pytest.raises(ValueError, match=r"lmms_eval.harness_models: nothing for models of the kind 'paligemma'"):
            run(project, stand_in)
    finally:
        config.write_text(whole)


# --- lmms-eval itself -----------------------------------------------------------------------------------------------

UTILS = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["picture"]).convert("RGB")]

def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


def local_task(folder: Path, world: PocketWorld) -> list[tuple[str, str, str]]:
    """Files of a task that asks about the world's pictures, and what it asks: image, question, answer."""
    folder.mkdir()
    asked = []
    for image_id, objects in zip(world.manifest["image_id"].head(6), world.manifest["objects"].head(6), strict=True):
        world.images[image_id].save(folder / f"{image_id}.png")
        absent = next(name for name in ("dog", "pizza", "clock", "car") if name not in objects)
        asked += [
            (image_id, f"Is there a {name} in the image?", answer)
            for name, answer in ((objects[0], "Yes"), (absent, "No"))
        ]
    rows = [
        {"picture": str(folder / f"{image_id}.png"), "question": question, "answer": answer}
        for image_id, question, answer in asked
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "utils.py").write_text(UTILS)
    task = {
        "task": "pocket_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": 4, "temperature": 0, "do_sample": False},
        "metric_list": [
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
            | {"ignore_case": True, "ignore_punctuation": True}
        ],
        "metadata": [{"version": 0.0}],
    }
    functions = "doc_to_visual: !function utils.doc_to_visual\ndoc_to_text: !function utils.doc_to_text\n"
    (folder / "pocket_questions.yaml").write_text(yaml.safe_dump(task) + functions)
    return asked


def our_answers(policy: Policy, world: PocketWorld, asked: list[tuple[str, str, str]], reference: bool) -> list[str]:
    batch = policy.encode([question for _, question, _ in asked], [image for image, _, _ in asked], world.open_image)
    with torch.inference_mode():
        drawn = policy.sample(batch, Decoding(temperature=0, max_new_tokens=4), reference=reference)
    return policy.decode(drawn.ids, drawn.mask)[0]


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not LMMS_PYTHON.exists(), reason="lmms-eval is not here: `make lmms-env` makes its environment")
def test_a_local_task_offline_gives_our_own_answers_of_base_and_merged_model(project, tmp_path):
    world = PocketWorld.make(project.root / "data" / "smoke" / "06_models")
    asked = local_task(tmp_path / "tasks", world)
    shutil.rmtree(results(project), ignore_errors=True)
    run(project, LMMS_PYTHON, tasks=["pocket_questions"], include_path=str(tmp_path / "tasks"))
    comparison = project.record("lmms_comparison")
    adapter = next((project.root / "data/smoke/06_models/policy_adapter").rglob("adapter_config.json")).parent
    policy = Policy.load(world.policy_source, adapter=adapter)
    for model, reference in (("base", True), ("aligned", False)):
        (samples,) = results(project).glob(f"{model}-pocket_questions-*/**/*_samples_*.jsonl")
        rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        theirs = ["".join(row["filtered_resps"]) for row in rows]
        ours = our_answers(policy, world, asked, reference)
        assert theirs == ours
        right = sum(
            said.strip().rstrip(".").lower() == truth.lower() for said, (_, _, truth) in zip(ours, asked, strict=True)
        )
        assert comparison[model]["pocket_questions"]["exact_match"]["value"] == pytest.approx(right / len(asked))
    assert comparison["base"]["pocket_questions"]["exact_match"]["value"] > 0.8, "the shipped model sees"
    assert comparison["settings"]["tasks"]["pocket_questions"]["questions"] == len(asked)
