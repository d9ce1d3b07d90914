"""Environments of real models: what they hold, and how data laid out as docs/real_models.md says is dealt by them."""

import inspect
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.config import OmegaConfigLoader
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from PIL import Image
from tests.real_configs import CONFIGS, PARAMETERS, lay_in_cache
from tests.smoke_project import Smoke

from fisao_pipeline.datasets import ModelFolderDataset
from fisao_pipeline.models.backbones.choice import KINDS
from fisao_pipeline.models.prompts import PromptEncoder
from fisao_pipeline.models.shape import policy_shape, verifier_shape
from fisao_pipeline.models.source import ModelSource, is_commit
from fisao_pipeline.params.base import SPLITS
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.plan import PlanParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.planning import memory
from fisao_pipeline.planning.plan import Run, format_plan, plan_run
from fisao_pipeline.runs.preflight import warn_of_unpinned
from fisao_pipeline.settings import CONFIG_LOADER_ARGS

PROJECT = Path(__file__).parents[2]
CONF = PROJECT / "conf"
DOCUMENT = PROJECT / "docs" / "real_models.md"
ENVIRONMENTS = ["gemma3", "instructblip", "llava15", "qwen3_vl", "qwen_vl"]
MODELS = ("policy_backbone", "verifier")


def load(env: str) -> OmegaConfigLoader:
    return OmegaConfigLoader(str(CONF), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})


def own(env: str, kind: str) -> dict[str, Any]:
    """What an environment's own files say, base left out."""
    return {k: v for file in (CONF / env).glob(f"{kind}*.yml") for k, v in yaml.safe_load(file.read_text()).items()}


def leaves(block: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(block, dict):
        return {name: block}
    return {key: leaf for k, v in block.items() for key, leaf in leaves(v, f"{name}.{k}" if name else str(k)).items()}


# --- what they hold --------------------------------------------------------------------------------------------------


def test_these_are_all_of_them():
    """An environment with a hub model is one of a real model, and tested here."""
    with_hub = [path.parent.name for path in CONF.glob("*/catalog*.yml") if "hub_id:" in path.read_text()]
    assert sorted(with_hub) == ENVIRONMENTS


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_only_what_differs_from_base_is_there(env):
    base, mine = leaves(load("base")["parameters"]), leaves(own(env, "parameters"))
    whole = {"image_ingestion.source_splits", "image_ingestion.split_fractions"}
    same = {name for name, value in mine.items() if base.get(name) == value}
    assert {name for name in same if not any(name.startswith(block) for block in whole)} == set()
    catalog = load("base")["catalog"]
    named = own(env, "catalog")
    assert set(named) == {*MODELS, "image_folder", "raw_annotations", "raw_prompts"}
    assert all(load(env)["catalog"][name] != catalog[name] for name in named)
    # Everything else goes where this environment's runs are.
    others = {
        name: entry["filepath"]
        for name, entry in load(env)["catalog"].items()
        if name not in named and "filepath" in entry
    }
    assert others
    assert all(path.startswith(f"data/{env}/") for path in others.values())


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_models_are_pinned_and_of_supported_kinds(env, caplog):
    entries = {name: load(env)["catalog"][name] for name in MODELS}
    catalog = DataCatalog.from_config(entries)
    with caplog.at_level(logging.WARNING):
        warn_of_unpinned(MODELS, catalog, env)
    assert caplog.text == ""
    for name in MODELS:
        dataset = catalog.get(name)
        assert isinstance(dataset, ModelFolderDataset)
        assert dataset.is_folder or is_commit(dataset.source.revision)
    policy = catalog.get("policy_backbone").source
    assert CONFIGS[policy.path_or_id]["model_type"] in KINDS
    assert policy.dtype == "bfloat16"
    assert policy.quantization is None
    # The line to uncomment makes the entry that it says.
    text = (CONF / env / "catalog.yml").read_text()
    assert text.count("  # quantization: nf4\n") == 1
    changed = yaml.safe_load(text.replace("  # quantization: nf4\n", "  quantization: nf4\n"))
    assert changed["policy_backbone"]["quantization"] == "nf4"
    assert "quantization" not in changed["verifier"]


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_downloads_can_be_somewhere_else(env, monkeypatch):
    monkeypatch.setenv("FISAO_DOWNLOADS", "/large/disk")
    catalog = load(env)["catalog"]
    paths = [catalog["image_folder"]["filepath"], *catalog["raw_annotations"]["filepath"]]
    assert all(path.startswith("/large/disk/coco") for path in paths)
    assert catalog["raw_prompts"]["filepath"] == "/large/disk/llava_instruct_150k.json"


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub_id", CONFIGS)
def test_published_sizes(hub_id, tmp_path):
    """The plan's own count is what the models' pages say, from configurations alone."""
    source = ModelSource(str(lay_in_cache(tmp_path, hub_id, "c")), dtype="bfloat16")
    if CONFIGS[hub_id]["model_type"] in KINDS:
        block = load("llava15")["parameters"]["policy_training"]["lora"]
        shape = policy_shape(source, LoraParams(**block))
        assert shape.packs == (CONFIGS[hub_id]["model_type"] in ("llava", "instructblip"))
        assert 0.35 < shape.linear_parameters / shape.parameters < 0.95
    else:
        shape = verifier_shape(source)
    if hub_id in PARAMETERS:
        assert shape.parameters == PARAMETERS[hub_id]


def test_llava_by_hand(tmp_path):
    """7.06 B parameters; in NF4 the 6.48 B of linear layers take 4.127 bits; half a megabyte of cache a token."""
    source = ModelSource(
        str(lay_in_cache(tmp_path, "llava-hf/llava-1.5-7b-hf", "c")), dtype="bfloat16", quantization="nf4"
    )
    shape = policy_shape(source, LoraParams(rank=64, alpha=128, targets=("q_proj",)))
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert shape.linear_parameters == linear == 6_476_005_376
    nf4 = linear * (4 + 8 / 64 + 32 / (64 * 256)) / 8
    assert memory.weight_bytes(shape) == pytest.approx((7_063_427_072 - linear) * 2 + nf4, abs=1)
    assert 4.1 < memory.weight_bytes(shape) / 2**30 < 4.3
    assert memory.token_cache_bytes(shape) == 524_288


# --- data ------------------------------------------------------------------------------------------------------------


def photo(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def lay_downloads(root: Path, train: int = 400, val: int = 30, shared: int = 10, rows: int = 120) -> None:
    """A small COCO and LLaVA-Instruct as they are downloaded: of train2017 `shared` pictures are in val2014, too."""
    coco = root / "coco"
    for number in range(train):
        photo(coco / "train2017" / f"{number:012}.jpg", number)
    for number in range(val):
        id_ = number if number < shared else 10_000 + number
        photo(coco / "val2014" / f"COCO_val2014_{id_:012}.jpg", id_)
    (coco / "annotations").mkdir()
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "kite"}]
    for name, folder, key in (
        ("train2017", "train2017", "{:012}.jpg"),
        ("val2014", "val2014", "COCO_val2014_{:012}.jpg"),
    ):
        ids = sorted(int(re.findall(r"\d{12}", path.name)[0]) for path in (coco / folder).iterdir())
        images = [{"id": id_, "file_name": key.format(id_)} for id_ in ids]
        objects = [{"id": n, "image_id": id_, "category_id": 1 + n % 2} for n, id_ in enumerate(ids)]
        captions = [{"id": n, "image_id": id_, "caption": "A dog."} for n, id_ in enumerate(ids)]
        annotations = coco / "annotations"
        instances = {"images": images, "annotations": objects, "categories": categories}
        (annotations / f"instances_{name}.json").write_text(json.dumps(instances))
        (annotations / f"captions_{name}.json").write_text(json.dumps({"images": images, "annotations": captions}))
    conversations = [
        {
            "id": f"{shared + number:012}",
            "image": f"{shared + number:012}.jpg",
            "conversations": [
                {"from": "human", "value": f"<image>\nWhat is this, {number}?"},
                {"from": "gpt", "value": "A dog."},
            ],
        }
        for number in range(rows)
    ]
    (root / "llava_instruct_150k.json").write_text(json.dumps(conversations))


@pytest.fixture(scope="module")
def project(tmp_path_factory, mlflow_template):
    folder = tmp_path_factory.mktemp("real")
    lay_downloads(folder / "downloads")
    return Smoke.make(folder / "project", mlflow_template, put_models=lambda models: None)


def run(project: Smoke, env: str, pipeline: str, monkeypatch) -> Path:
    """Run in this process; returns the folder of the environment's artifacts."""
    monkeypatch.setenv("FISAO_DOWNLOADS", str(project.root.parent / "downloads"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)
    monkeypatch.chdir(project.root)
    bootstrap_project(project.root)
    with settings.SESSION_CLASS.create(project_path=project.root, env=env) as session:
        session.run(pipeline_names=[pipeline])
    return project.root / "data" / env


def latest(artifact: Path) -> Path:
    return sorted(path for path in artifact.iterdir() if not path.name.startswith("."))[-1] / artifact.name


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_downloads_are_dealt_as_the_environment_says(project, env, monkeypatch):
    made = run(project, env, "image_ingestion", monkeypatch)
    manifest = pd.read_parquet(latest(made / "02_intermediate" / "image_manifest.parquet")).set_index("image_id")
    prompts = pd.read_parquet(latest(made / "03_primary" / "prompts.parquet"))
    rejected = pd.read_parquet(latest(made / "02_intermediate" / "rejected_images.parquet"))
    assert set(prompts["split"]) == set(SPLITS)
    folder = prompts["image_id"].map(manifest["file_name"]).str.partition("/")[0]
    assert set(folder[prompts["split"] == "held_out"]) == {"val2014"}
    assert set(folder[prompts["split"] != "held_out"]) == {"train2017"}
    assert (prompts["split"] == "held_out").sum() == 30
    # Copies of held-out pictures are taken out of training.
    copies = rejected[rejected["reason"].str.startswith("copy across splits")]
    assert set(copies["name"]) == {f"train2017/{number:012}.jpg" for number in range(10)}
    # Training is asked LLaVA-Instruct's questions alone, the others the template too.
    template = load(env)["parameters"]["image_ingestion"]["template_prompt"]
    asked = prompts["prompt"] == template
    assert not asked[prompts["split"] == "training"].any()
    assert asked[prompts["split"] == "held_out"].all()
    assert asked[prompts["split"] == "calibration"].mean() > 0.4
    assert 100 < (prompts["split"] == "training").sum() < 120
    objects = manifest["objects"].map(lambda value: None if value is None else list(value))
    assert set(map(tuple, objects)) == {("dog",), ("kite",)}
    assert manifest.loc[prompts.loc[prompts["split"] == "calibration", "image_id"], "captions"].notna().all()


def lay_configurations(project: Smoke, cache: Path, monkeypatch) -> None:
    """Those of `llava15`'s models, where a download of them alone leaves them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    entries = load("llava15")["catalog"]
    lay_in_cache(cache, entries["policy_backbone"]["hub_id"], entries["policy_backbone"]["revision"])
    clip = project.root / entries["verifier"]["filepath"]
    clip.mkdir(parents=True, exist_ok=True)
    (clip / "config.json").write_text(json.dumps(CONFIGS[f"openai/{clip.name}"]))


def written_plan(project: Smoke) -> dict[str, Any]:
    return json.loads(latest(project.root / "data" / "llava15" / "08_reporting" / "plan.json").read_text())


@pytest.mark.parametrize("images", [True, False])
def test_the_plan_before_ingestion_is_the_documents(mlflow_template, monkeypatch, tmp_path, images):
    """From configurations alone, with COCO downloaded or not: nobody knows yet how many images a split will have."""
    fresh = Smoke.make(tmp_path / "project", mlflow_template, put_models=lambda models: None)
    lay_configurations(fresh, tmp_path / "hub", monkeypatch)
    if images:
        lay_downloads(tmp_path / "downloads", train=20, val=4, shared=2, rows=8)
    with pytest.raises(ValueError, match="would not go through") as refusal:
        run(fresh, "llava15", "plan", monkeypatch)
    assert ("Image folder" in str(refusal.value)) is not images
    plan = written_plan(fresh)
    assert all(card["hours"]["evaluation"] > 0 for card in plan["cards"])
    assert plan_row("llava15", None, plan) in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_the_plan_of_the_main_environment_counts_what_was_ingested(project, monkeypatch, tmp_path, capsys):
    """From configurations in the cache, prompts from the artifacts, and weights that are not there named."""
    lay_configurations(project, tmp_path / "hub", monkeypatch)
    run(project, "llava15", "image_ingestion", monkeypatch)
    with pytest.raises(ValueError, match="would not go through") as refusal:
        run(project, "llava15", "plan", monkeypatch)
    assert "llava-1.5-7b-hf" in str(refusal.value) and "is not complete: model.safetensors" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 3
    plan = written_plan(project)
    assert plan["policy"]["parameters"] == 7_063_427_072
    assert plan["lengths_tokens"] == {"prompt": 640, "response": 160, "group": 4}
    assert plan["gradient_checkpointing"] is True
    # Some forty calibration prompts, and not five thousand.
    assert 0 < plan["work"]["calibration sampling"]["sequences"] < 60
    cards = {card["name"]: card for card in plan["cards"]}
    assert cards["H100"]["largest_micro_batch"] == 64


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_document_downloads_what_the_environments_name():
    text = DOCUMENT.read_text(encoding="utf-8")
    for env in ENVIRONMENTS:
        assert f"`{env}`" in text
        for name in MODELS:
            entry = load(env)["catalog"][name]
            wanted = (
                f"hf download {entry['hub_id']} --revision {entry['revision']}"
                if "hub_id" in entry
                else f"--output={entry['filepath']}"
            )
            assert wanted in text, env
    commits = set(re.findall(r"\b[0-9a-f]{40}\b", text))
    assert all(is_commit(commit) for commit in commits)
    assert len(commits) == 9, "two environments share SigLIP 2, and CLIP's commit is in the commands alone"
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (DOCUMENT.parent / link).exists(), link


def plans_of(env: str, cache: Path) -> dict[str | None, dict[str, Any]]:
    """The environment's plans by quantization, in bfloat16 and in NF4."""
    loaded = load(env)
    blocks = loaded["parameters"]
    training = PolicyTrainingParams(**blocks["policy_training"])
    params = PlanParams(**blocks["plan"])
    sources = {}
    for name in MODELS:
        entry = loaded["catalog"][name]
        hub_id = entry.get("hub_id") or f"openai/{Path(entry['filepath']).name}"
        folder = lay_in_cache(cache, hub_id, "c")
        sources[name] = ModelSource(str(folder), dtype=entry["dtype"], options=entry.get("options", {}))
    shape = policy_shape(sources["policy_backbone"], training.lora)
    plans = {}
    for quantization in (None, "nf4"):
        run = Run(
            replace(shape, quantization=quantization),
            verifier_shape(sources["verifier"]),
            {},
            ResponseSamplingParams(**blocks["response_sampling"]),
            training,
            BenchmarkEvaluationParams(**blocks["benchmark_evaluation"]),
            checkpointing=sources["policy_backbone"].options["gradient_checkpointing"],
            feature_cache_bytes=inspect.signature(PromptEncoder).parameters["cache_bytes"].default,
        )
        plans[quantization] = plan_run(run, params, None)
    return plans


def plan_row(env: str, quantization: str | None, plan: dict[str, Any]) -> str:
    """A plan as a row of the document's table."""
    sizes, cards = plan["memory_bytes"], {card["name"]: card for card in plan["cards"]}
    fixed = sum(sizes[name] for name in ("policy", "verifier", "adapter", "features"))
    most = fixed + max(sizes["sampling"], sizes["activations"])
    small = cards["RTX 4090"]
    fits = small["largest_micro_batch"] and f"{small['largest_micro_batch']}, {small['largest_sampling_batch']}"
    hours = {name: card["total_hours"] for name, card in cards.items()}
    at_24 = f"{hours['RTX 4090']:.0f}" if fits else "–"
    return (
        f"| `{env}` | {quantization or 'bfloat16'} | {fixed / 2**30:.1f} | {most / 2**30:.1f} | "
        f"{fits or 'does not fit'} | {at_24} | "
        f"{hours['H100']:.1f} ({hours['A100']:.1f}) | {hours['H200']:.1f} |"
    )


@pytest.mark.slow
def test_the_documents_figures_are_the_planners(tmp_path):
    table = re.search(r"<!-- plan -->\n(.*)<!-- /plan -->", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    plans = {env: plans_of(env, tmp_path) for env in ("llava15", "instructblip", "qwen_vl", "qwen3_vl", "gemma3")}
    rows = [plan_row(env, bits, plan) for env, found in plans.items() for bits, plan in found.items()]
    assert table[1].splitlines()[2:] == rows
    assert f"```text\n{format_plan(plans['llava15'][None])}\n```" in DOCUMENT.read_text(encoding="utf-8")
