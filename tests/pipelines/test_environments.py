"""Every environment that takes its policy from the hub, run whole with twins of its models at random weights.

Its own parameters, catalog, folders and file names; only the two models are exchanged for tiny ones of the same kind
(dtype and options stay), its data are a few rendered pictures under the names that it expects, and a run is shorter.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from tests.backbone_zoo import build
from tests.smoke_project import PROJECT, copy_configuration, run_project
from tests.verifier_zoo import save_blip2, save_clip, save_siglip

from fisao_pipeline.pocket.scenes import draw_scenes
from fisao_pipeline.pocket.world import coco_annotations, pictures

# What a hub id's name says its `model_type` is; the first that fits.
ARCHITECTURES = {
    "llava-1.5": "llava",
    "llava-v1.6": "llava_next",
    "llava-onevision": "llava_onevision",
    "instructblip": "instructblip",
    "qwen2-vl": "qwen2_vl",
    "qwen2.5-vl": "qwen2_5_vl",
    "qwen3-vl": "qwen3_vl",
    "smolvlm": "smolvlm",
    "idefics3": "idefics3",
    "paligemma": "paligemma",
    "gemma-3": "gemma3",
    "internvl": "internvl",
}
VERIFIERS: dict[str, Callable[[Path], Path]] = {"siglip": save_siglip, "blip2": save_blip2, "clip": save_clip}
FAST = ("llava15", "instructblip")
OF_HUB = ("hub_id", "revision", "allow_download")
PICTURES = 24


def catalog_files(environment: Path) -> dict[Path, dict[str, Any]]:
    return {
        file: yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        for file in sorted(environment.glob("catalog*.yml"))
    }


def environments() -> list[str]:
    folders = (folder for folder in sorted((PROJECT / "conf").iterdir()) if folder.is_dir())
    return [
        folder.name
        for folder in folders
        if any("hub_id" in entries.get("policy_backbone", {}) for entries in catalog_files(folder).values())
    ]


FOUND = environments()
CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FOUND] or [
    pytest.param("", marks=pytest.mark.skip("no environment in conf/ names a hub_id for policy_backbone"))
]


def kind_of(hub_id: str, known: dict[str, Any]) -> Any:
    found = next((value for name, value in known.items() if name in hub_id.lower()), None)
    assert found is not None, f"say here what kind of model {hub_id!r} is"
    return found


def exchange_models(environment: Path, models: Path) -> None:
    """Twins in place of the two models; the rest of an entry stays."""
    for file, entries in catalog_files(environment).items():
        for name, make in (
            ("policy_backbone", lambda hub_id, folder: build(kind_of(hub_id, ARCHITECTURES), folder)),
            ("verifier", lambda hub_id, folder: kind_of(hub_id, VERIFIERS)(folder)),
        ):
            entry = entries.get(name)
            if entry is not None:
                folder = make(entry.get("hub_id") or entry["filepath"], models / name)
                entries[name] = {key: value for key, value in entry.items() if key not in OF_HUB}
                entries[name]["filepath"] = folder.as_posix()
        file.write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")


def listed(entry: dict[str, Any]) -> list[Path]:
    paths = entry["filepath"]
    return [Path(path) for path in ([paths] if isinstance(paths, str) else paths or [])]


def write_data(root: Path, catalog: dict[str, dict[str, Any]]) -> None:
    """Rendered pictures, COCO annotations and prompts, where the environment looks for its own and under its names."""
    images = root / catalog["image_folder"]["filepath"]
    annotations, prompts = listed(catalog["raw_annotations"]), listed(catalog["raw_prompts"])
    subsets = sorted({match[0] for path in annotations if (match := re.search(r"(train|val)20\d\d", path.name))}) or [
        ""
    ]
    references = []
    for place, subset in enumerate(subsets):
        scenes = draw_scenes(PICTURES, seed=20 + place)
        truth = coco_annotations(scenes, seed=place)
        renamed: dict[str, str] = {}
        for number, (name, picture) in enumerate(pictures(scenes)):
            # As COCO numbers its files: the ones of 2014 have a prefix.
            prefix = f"COCO_{subset}_" if subset.endswith("2014") else ""
            renamed[name] = f"{prefix}{1000 * (place + 1) + number:012d}.jpg"
            (images / subset).mkdir(parents=True, exist_ok=True)
            picture.resize(((96, 96), (150, 70))[number % 2]).save(images / subset / renamed[name])
        for image in truth["images"]:
            image["file_name"] = renamed[image["file_name"]]
            image["id"] += 1000 * (place + 1)
        for row in (*truth["annotations"], *truth["captions"]):
            row["image_id"] += 1000 * (place + 1)
        captions = truth.pop("captions")
        for path in (path for path in annotations if subset in path.name):
            content = {**truth, "annotations": captions} if path.name.startswith("captions") else truth
            if path.name.startswith("captions"):
                del content["categories"]
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(json.dumps(content), encoding="utf-8")
        references += [name for name in renamed.values() if not subset.startswith("val")]
    for path in prompts:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            rows = [{"prompt_id": name, "image": name, "prompt": "What is this?"} for name in references]
            (root / path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            asked = {"from": "human", "value": "<image>\nWhat do you see in the picture?"}
            told = {"from": "gpt", "value": "A bench."}
            rows = [{"id": Path(name).stem, "image": name, "conversations": [asked, told]} for name in references]
            (root / path).write_text(json.dumps(rows), encoding="utf-8")


# Random models name what they name: no calibration can be measured. All else here is for speed.
LESS = {
    # Their own shares leave too few of so few pictures to the probe.
    "image_ingestion": {
        "workers": 1,
        "split_fractions": {"calibration": 0.3, "training": 0.4, "probe": 0.3, "held_out": 0.0},
    },
    "response_sampling": {
        "responses_per_prompt": 2,
        "max_new_tokens": 16,
        "prompts_per_round": 6,
        "calibration_prompts": 4,
        "batch_size": 8,
    },
    "reward_annotation": {
        "calibration": "fixed",
        "fixed_baseline": {
            "correct_mean": 0.1,
            "hallucinated_mean": -0.1,
            "std": 0.1,
            "mixing_weight": 0.5,
            "sentence_mean": 0.0,
            "sentence_std": 0.1,
        },
    },
    "policy_training": {
        "rounds": 2,
        "keep": "last",
        "probe_prompts": 2,
        "ppo": {"epochs": 1, "batch_size": 12, "micro_batch_size": 4},
    },
    "benchmark_evaluation": {
        "held_out_images": 4,
        "max_new_tokens": 16,
        "pope_images": 2,
        "batch_size": 8,
        "bootstrap_resamples": 100,
    },
    "reporting": {"bootstrap_resamples": 100},
}


@pytest.mark.parametrize("environment", CASES)
def test_an_environment_runs_with_twins_of_its_models(environment, tmp_path, mlflow_template, monkeypatch):
    root = tmp_path / "project"
    copy_configuration(root)
    store = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    # Where a user keeps the real data.
    monkeypatch.delenv("FISAO_DOWNLOADS", raising=False)
    exchange_models(root / "conf" / environment, root / "models")
    monkeypatch.chdir(root)
    bootstrap_project(root)
    with KedroSession.create(project_path=root, env=environment) as session:
        write_data(root, session.load_context().config_loader["catalog"])
    run_project(root, environment, "train", **LESS)
    run_project(root, environment, "benchmark_evaluation", **LESS)
    with KedroSession.create(project_path=root, env=environment) as session:
        catalog = session.load_context().catalog
        history, comparison = catalog.load("training_history"), catalog.load("comparison")
        prompts, rewards = catalog.load("prompts"), catalog.load("token_rewards")
    numbers = history.iloc[1:].drop(columns=["kept", *(name for name in history if name.startswith("probe"))])
    assert np.isfinite(numbers.to_numpy(dtype=float)).all()
    assert history["kl_k3"].iloc[1] == 0 < history["kl_k3"].iloc[2], "the update moves the adapter"
    assert any(any(row) for row in rewards["token_rewards"])
    assert set(prompts["split"]) == {"calibration", "training", "probe", "held_out"}
    for model in ("base", "aligned"):
        for decoding in ("greedy", "sampled"):
            assert comparison[model][decoding]["recall"]["value"] is not None
            assert comparison[model][decoding]["pope_accuracy"]["value"] is not None
