"""What it is all for: on the shipped models a run with the settings of `conf/` leaves far fewer hallucinations."""

import json
import shutil
from pathlib import Path

import pytest
from tests.smoke_project import PROJECT, copy_configuration, run_project

# Environment, where its runs write, and its models.
RUNS = {
    "base": ("data", ("pocket_verifier", "pocket_vlm")),
    "pocket_instructblip": ("data/pocket_instructblip", ("pocket_blip2", "pocket_instructblip")),
}


def latest(file: Path) -> dict:
    version = max(path for path in file.iterdir() if not path.name.startswith("."))
    return json.loads((version / file.name).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("env", RUNS)
def test_hallucinations_fall_and_recall_stays(env, tmp_path, mlflow_store):
    data, models = RUNS[env]
    root = tmp_path / "project"
    copy_configuration(root)
    for name in models:
        shutil.copytree(PROJECT / "data" / "06_models" / name, root / "data" / "06_models" / name)
    run_project(root, "base", "pocket_world", tags=["scenes"])
    run_project(root, env, "train")
    run_project(root, env, "benchmark_evaluation")
    comparison = latest(root / data / "08_reporting" / "comparison.json")
    base, aligned = (
        {name: comparison[model]["greedy"][name]["value"] for name in ("chair_i", "recall", "pope_accuracy")}
        for model in ("base", "aligned")
    )
    assert base["chair_i"] > 0.3, "there must be something to mend"
    assert aligned["chair_i"] <= 0.4 * base["chair_i"], (base, aligned)
    assert aligned["recall"] >= base["recall"] - 0.02, (base, aligned)
    assert aligned["pope_accuracy"] >= base["pope_accuracy"] - 0.02, (base, aligned)
