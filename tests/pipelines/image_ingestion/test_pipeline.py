import json

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image
from pydantic import ValidationError

from fisao_pipeline.datasets.image_folder import ImageFolder
from fisao_pipeline.params.image_ingestion import ImageIngestionParams
from fisao_pipeline.pipelines.image_ingestion import create_pipeline

OUTPUTS = {"image_manifest", "annotated_categories", "prompts", "rejected_images"}


def conf(request, name):
    text = (request.config.rootpath / "conf" / "base" / f"{name}_image_ingestion.yml").read_text()
    return yaml.safe_load(text.replace("${globals:data}", "data"))


@pytest.fixture
def params(request):
    return conf(request, "parameters")["image_ingestion"]


@pytest.fixture
def raw(tmp_path):
    """Forty different images, one duplicate, one broken file; annotations and prompts that mostly fit."""
    images = tmp_path / "data/01_raw/pocket_scenes/images"
    images.mkdir(parents=True)
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(images / f"{number:03}.png")
    (images / "copy.png").write_bytes((images / "000.png").read_bytes())
    (images / "broken.png").write_bytes((images / "001.png").read_bytes()[:500])
    names = sorted(path.name for path in images.iterdir())
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1}, {"id": 2, "image_id": 3, "category_id": 9}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "bird"}],
    }
    rows = [{"prompt_id": f"p{number}", "image": name, "prompt": "What?"} for number, name in enumerate(names)]
    (images.parent / "annotations.json").write_text(json.dumps(coco))
    (images.parent / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return images


class KeptDataset(MemoryDataset):
    """In memory, and still there when the runner says that nobody needs it any more."""

    def _release(self):
        pass


def run(raw, params):
    inputs = {"image_folder": ImageFolder(raw), "raw_annotations": None, "raw_prompts": None}
    inputs["params:image_ingestion"] = ImageIngestionParams(**params)
    datasets = {name: MemoryDataset(data, copy_mode="assign") for name, data in inputs.items()}
    catalog = DataCatalog({**datasets, **{name: KeptDataset() for name in OUTPUTS}})
    SequentialRunner().run(create_pipeline(), catalog)
    return {name: catalog.load(name) for name in OUTPUTS}


def test_the_stage_runs_in_memory_on_images_alone(raw, params):
    answers = run(raw, params)
    assert len(answers["image_manifest"]) == len(answers["prompts"]) == 41
    assert list(answers["rejected_images"]["name"]) == ["broken.png"]
    assert answers["annotated_categories"] == []


def test_the_stage_runs_on_the_catalog_as_shipped(raw, params, tmp_path, request):
    entries = conf(request, "catalog")
    for entry in entries.values():
        entry["filepath"] = str(tmp_path / entry["filepath"])
    entries["params:image_ingestion"] = {"type": "MemoryDataset", "data": ImageIngestionParams(**params)}
    catalog = DataCatalog.from_config(entries)
    SequentialRunner().run(create_pipeline(), catalog)
    manifest, prompts, rejected = (catalog.load(name) for name in ("image_manifest", "prompts", "rejected_images"))
    assert manifest["image_id"].is_unique and set(prompts["image_id"]) == set(manifest["image_id"])
    assert manifest.set_index("image_id")["objects"]["3"] == ["cat"]
    assert catalog.load("annotated_categories") == ["bird", "cat"], "also what no image shows"
    assert sorted(zip(rejected["kind"], rejected["name"], strict=True)) == [
        ("annotation", "annotations.json annotation 2"),
        ("annotation", "broken.png"),
        ("image", "broken.png"),
        ("prompt", "p40"),
    ]


def test_a_duplicate_gets_the_split_of_its_twin_and_a_rerun_gives_the_same_tables(raw, params):
    one, two = run(raw, params), run(raw, params)
    splits = one["prompts"].set_index("image_id")["split"]
    assert splits["000"] == splits["copy"]
    assert one["annotated_categories"] == two["annotated_categories"]
    for name in OUTPUTS - {"annotated_categories"}:
        pd.testing.assert_frame_equal(one[name], two[name])


def test_coco_train2017_and_val2014_as_a_user_configures_them(params, tmp_path, request):
    """The same photo under two names and one id: the held-out copy stays, with its annotations; nothing vanishes."""
    root = tmp_path / "coco"
    photos = {
        "train2017/000000000001.jpg": 1,
        "train2017/000000000002.png": 2,
        **{f"train2017/0000000000{number}.jpg": number for number in range(10, 40)},
        "val2014/COCO_val2014_000000000001.jpg": 1,
        "val2014/COCO_val2014_000000000002.bmp": 2,
        "val2014/COCO_val2014_000000000003.jpg": 3,
    }
    for name, number in photos.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / name)
    for part in ("train2017", "val2014"):
        names = [name.split("/")[1] for name in photos if name.startswith(part)]
        ids = [int(name.split(".")[0][-12:]) for name in names]
        rows = [{"id": number, "file_name": name} for number, name in zip(ids, names, strict=True)]
        marks = [{"id": number, "image_id": number, "category_id": 1} for number in ids]
        coco = {"images": rows, "annotations": marks, "categories": [{"id": 1, "name": part}]}
        (tmp_path / f"instances_{part}.json").write_text(json.dumps(coco))
    question = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    llava = [
        {"id": name.split(".")[0], "image": name, "conversations": question}
        for name in (path.split("/")[1] for path in photos if path.startswith("train2017"))
    ]
    (tmp_path / "llava.json").write_text(json.dumps(llava))
    entries = conf(request, "catalog")
    for entry in entries.values():
        entry["filepath"] = str(tmp_path / entry["filepath"])
    entries["image_folder"]["filepath"] = str(root)
    files = [str(tmp_path / f"instances_{part}.json") for part in ("train2017", "val2014")]
    entries["raw_annotations"] = {"type": entries["raw_annotations"]["type"], "filepath": files}
    entries["raw_prompts"] = {"type": entries["raw_prompts"]["type"], "filepath": str(tmp_path / "llava.json")}
    sources = {"train2017": ["calibration", "training", "probe"], "instances_val2014.json": ["held_out"]}
    changes = {"source_splits": sources, "template_splits": ["held_out"], "template_prompt": "Describe it."}
    block = ImageIngestionParams(**{**params, **changes, "max_prompts_per_file": 20})
    entries["params:image_ingestion"] = {"type": "MemoryDataset", "data": block}
    catalog = DataCatalog.from_config(entries)
    SequentialRunner().run(create_pipeline(), catalog)
    manifest, prompts, rejected = (catalog.load(name) for name in ("image_manifest", "prompts", "rejected_images"))

    by_name = manifest.set_index("file_name")
    assert set(photos) - set(by_name.index) == {"train2017/000000000001.jpg", "train2017/000000000002.png"}
    assert list(by_name["objects"]["val2014/COCO_val2014_000000000001.jpg"]) == ["val2014"]
    held_out = prompts[prompts["split"] == "held_out"]
    assert list(held_out["image_id"]) == ["COCO_val2014_000000000001", "COCO_val2014_000000000002", "3"]
    assert set(held_out["prompt"]) == {"Describe it."}
    asked = prompts[prompts["split"] != "held_out"]
    assert list(asked["prompt_id"]) == [f"{number:012d}" for number in range(10, 30)], "the first 20, in file order"
    assert set(asked["prompt"]) == {"What?"}
    copies = rejected[rejected["kind"] == "image"].set_index("name")["reason"]
    assert len(copies) == 2
    assert copies["train2017/000000000001.jpg"].endswith(
        "the same picture is val2014/COCO_val2014_000000000001.jpg (image_id COCO_val2014_000000000001) in held_out"
    )
    assert set(rejected[rejected["kind"] == "prompt"]["name"]) == {"000000000001", "000000000002"}


@pytest.mark.parametrize(
    "change",
    [
        {"split_fractions": {"calibration": 0.5, "training": 0.6}},
        {"split_fractions": {"calibration": 0.5, "test": 0.5}},
        {"split_fractions": {"calibration": 1.5, "training": -0.5}},
        {"required_splits": ["test"]},
        {"max_pixels": 200_000_000},
        {"min_side_pixels": 100, "max_pixels": 9_999},
        {"template_prompt": " "},
        {"workers": 0},
        {"max_rejected_share": 1.1},
        {"sead": 1},
        {"source_splits": {"train": []}},
        {"source_splits": {"train": ["test"]}},
        {"source_splits": {"/": ["training"]}},
        {"source_splits": {"a": ["probe", "training"]}, "split_fractions": {"calibration": 1.0}},
        {"template_splits": ["test"]},
        {"max_prompts_per_file": 0},
    ],
)
def test_parameters_out_of_range_fail_before_any_node(params, change):
    with pytest.raises(ValidationError):
        ImageIngestionParams(**{**params, **change})
