"""Images that were deleted or moved after ingestion: told by the plan, and before a model is loaded for them."""

from contextlib import contextmanager

import pytest
from tests.smoke_project import Smoke

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.runs import gone_images, preflight
from fisao_pipeline.runs.preflight import NotReadyError


class ModelLoadedError(Exception):
    """Stands for the minutes that a real model takes."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("smoke") / "project", mlflow_template)


@pytest.fixture(scope="module", autouse=True)
def ingested(smoke):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        smoke.run("pocket_world", tags=["scenes"])
        smoke.run("image_ingestion")


@pytest.fixture(autouse=True)
def own_store(smoke, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)


@pytest.fixture
def no_model(monkeypatch):
    def load(*_args, **_options):
        raise ModelLoadedError

    monkeypatch.setattr(Policy, "load", load)


def images_of(smoke: Smoke, split: str) -> list[str]:
    prompts, manifest = smoke.table("prompts"), smoke.table("image_manifest")
    return list(
        manifest.loc[manifest["image_id"].isin(prompts.loc[prompts["split"] == split, "image_id"]), "file_name"]
    )


@contextmanager
def moved_away(smoke: Smoke, names: list[str]):
    (folder,) = (smoke.root / "data" / "smoke" / "01_raw").glob("*/images")
    aside = smoke.root / "aside"
    aside.mkdir(exist_ok=True)
    for name in names:
        (folder / name).rename(aside / name)
    try:
        yield folder
    finally:
        for name in names:
            (aside / name).rename(folder / name)


def test_the_plan_tells_them_as_one_fault(smoke):
    names = [*images_of(smoke, "held_out"), *images_of(smoke, "training")]
    first = [name for name in smoke.table("image_manifest")["file_name"] if name in names][:3]
    with moved_away(smoke, names) as folder, pytest.raises(ValueError, match="would not go through") as refusal:
        smoke.run("plan")
    assert str(refusal.value).splitlines()[1:] == [
        f"- images of 'image_manifest' that are no longer in {folder}: {len(names)} ({', '.join(first)}, …). Put them "
        "back; or `kedro run --env=smoke --pipelines=image_ingestion` ingests what is there, and stages that read "
        "images are to be run anew"
    ]
    smoke.run("plan")


def test_a_run_is_refused_before_the_model_is_loaded(smoke, no_model):
    (name, *_) = images_of(smoke, "training")
    with (
        moved_away(smoke, [name]) as folder,
        pytest.raises(NotReadyError, match=r"^sample_responses was not run") as refusal,
    ):
        smoke.run("response_sampling")
    assert f"no longer in {folder}: 1 ({name}). Put them back" in str(refusal.value)


def test_what_a_later_stage_will_open_is_looked_for_at_the_first(smoke, no_model):
    """Held-out images are opened after the training, which takes hours; a run of the first stage alone never does."""
    names = images_of(smoke, "held_out")
    with moved_away(smoke, names):
        with pytest.raises(NotReadyError, match=rf"no longer in .*: {len(names)} \("):
            smoke.run(tags=["response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation"])
        with pytest.raises(ModelLoadedError):
            smoke.run("response_sampling")


def test_a_run_whose_nodes_are_fresh_looks_for_none(smoke, monkeypatch):
    looked = []

    def look(*args):
        looked.append(args[0].name)

    monkeypatch.setattr(preflight, "gone_before_node", look)
    smoke.run("response_sampling")
    smoke.run("response_sampling")
    assert looked == ["sample_responses"]


def test_a_pipeline_whose_splits_nobody_told_may_open_all():
    class Ablation:
        tags = frozenset({"ablation"})

    assert gone_images._splits_of(Ablation()) == {"calibration", "training", "probe", "held_out"}
