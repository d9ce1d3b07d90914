"""The node that asks: what is too long is listed, whether a user wrote it or we did."""

import pandas as pd
import pytest
from tests.pocket_models import PocketWorld, build_pocket_models
from tests.training.test_evaluation import PARAMS

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.pipelines.benchmark_evaluation import nodes

LONG = "umbrella " * 200


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> PocketWorld:
    folder = tmp_path_factory.getbasetemp() / "pocket_models"
    return PocketWorld.make(folder if folder.exists() else build_pocket_models(folder))


@pytest.fixture
def answer(world, tmp_path, monkeypatch):
    """Runs the node on the world's pictures with an untrained adapter."""
    config, state = world.policy().adapter_state()
    dataset = AdapterFolderDataset(filepath=str(tmp_path / "adapter"))
    dataset.save(AdapterArtifact(config=config, state_dict=state))
    monkeypatch.setattr(nodes, "image_opener", lambda folder, manifest: world.open_image)

    def run(prompts, manifest):
        params = PARAMS.model_copy(update={"held_out_images": 4, "pope_images": 4})
        return nodes.answer_held_out_prompts(prompts, manifest, None, world.policy_source, dataset.load(), params)

    return run


def test_held_out_prompts_that_are_too_long_make_room_for_other_images(world, answer):
    held_out = world.prompts[world.prompts["split"] == "held_out"]
    others = world.prompts[world.prompts["split"] == "training"].head(6)
    too_long = others.assign(split="held_out", prompt=LONG)
    predictions, rejected = answer(pd.concat([too_long, held_out], ignore_index=True), world.manifest)
    assert rejected["name"].tolist() == too_long["prompt_id"].tolist()
    captions = predictions[predictions["task"] == "caption"]
    assert len(held_out) == 4 and set(captions["prompt_id"]) == set(held_out["prompt_id"])


def test_a_yes_no_question_that_is_too_long_is_not_asked(world, answer):
    """A category with a name beyond all measure; the image's other questions are asked."""
    held_out = world.prompts.loc[world.prompts["split"] == "held_out", "image_id"].tolist()
    others = [["dog", "bus", "kite"], ["car", "bird", "chair"], ["clock", "tie", "bowl"]]
    objects = dict(zip(held_out[1:], others, strict=True)) | {held_out[0]: ["dog", "cat", LONG]}
    column = [objects.get(image_id, ["dog"]) for image_id in world.manifest["image_id"]]
    predictions, rejected = answer(world.prompts, world.manifest.assign(objects=column))
    assert f"pope/{held_out[0]}/{LONG}" in set(rejected["name"]) and rejected["name"].str.startswith("pope/").all()
    asked = predictions[predictions["task"] == "pope"]
    assert not asked["prompt"].str.contains("umbrella").any()
    assert set(asked["image_id"]) == set(held_out)


def test_annotations_of_few_categories_leave_the_captions(world, answer):
    column = [["dog", "cat", "car"]] * len(world.manifest)
    predictions, rejected = answer(world.prompts, world.manifest.assign(objects=column))
    assert set(predictions["task"]) == {"caption"} and rejected.empty
