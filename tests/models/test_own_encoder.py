"""Whose eyes the verifier has, told from the files alone; each way in which checkpoints spell and round them."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.backbone_zoo import build
from tests.verifier_zoo import save_blip2

from fisao_pipeline.models import own_encoder as module
from fisao_pipeline.models.own_encoder import compare_towers, own_encoder
from fisao_pipeline.models.source import ModelSource

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"


@pytest.fixture
def verifier(world) -> ModelSource:
    return world.verifier_source


@pytest.fixture
def rewritten(world, tmp_path):
    """The untrained pocket VLM with its tensors changed by a function of (name, tensor); None leaves one out."""

    def write(change, shards=1) -> ModelSource:
        folder = tmp_path / "vlm"
        shutil.copytree(world.policy_source.path_or_id, folder)
        weights = load_file(folder / "model.safetensors")
        changed = dict(pair for name, tensor in weights.items() if (pair := change(name, tensor)) is not None)
        if shards == 1:
            save_file(changed, folder / "model.safetensors")
            return ModelSource(str(folder))
        (folder / "model.safetensors").unlink()
        names = sorted(changed)
        of = {name: f"model-{number % shards + 1:05d}-of-{shards:05d}.safetensors" for number, name in enumerate(names)}
        for shard in set(of.values()):
            save_file({name: changed[name] for name in names if of[name] == shard}, folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": of}))
        return ModelSource(str(folder))

    return write


def same(name, tensor):
    return name, tensor


@pytest.mark.parametrize("models", ["shipped", "untrained"])
def test_the_pocket_verifier_is_the_policys_own_encoder(world, models, caplog):
    folder = SHIPPED if models == "shipped" else world.models
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        assert (
            own_encoder(ModelSource(str(folder / "pocket_vlm")), ModelSource(str(folder / "pocket_verifier"))) is True
        )
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "all 71 tensors of its vision tower are equal" in record.getMessage()


@pytest.mark.parametrize(
    "prefix",
    ["vision_tower.", "vision_tower.vision_model.", "model.vision_tower.", "model.vision_tower.vision_model."],
)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_spelling_and_every_shard_is_read(verifier, rewritten, prefix, shards):
    policy = rewritten(lambda n, t: (n.replace("vision_tower.", prefix, 1), t), shards)
    found = compare_towers(policy, verifier)
    assert (found.own, found.equal) == (True, 71)


def test_a_tower_without_what_llava_does_not_read_is_the_same_tower(verifier, rewritten):
    """The last layer and what follows it are left out; a buffer of older checkpoints is there."""

    def change(name, tensor):
        if name == "vision_tower.embeddings.class_embedding":
            return name, tensor
        return None if "tower.encoder.layers.3" in name or "post_layernorm" in name else (name, tensor)

    policy = rewritten(change)
    weights = load_file(Path(policy.path_or_id) / "model.safetensors")
    position_ids = {"vision_tower.embeddings.position_ids": torch.arange(37)[None]}
    save_file({**weights, **position_ids}, Path(policy.path_or_id) / "model.safetensors")
    found = compare_towers(policy, verifier)
    assert (found.own, found.equal) == (True, 71 - 16 - 2)


HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    "stored", [[HALF], [BRAIN], [DOUBLE], [BRAIN, SINGLE], [HALF, SINGLE], [HALF, BRAIN], [BRAIN, HALF]]
)
def test_precision_does_not_tell_towers_apart(verifier, rewritten, stored):
    def change(name, tensor):
        for dtype in stored:
            tensor = tensor.to(dtype)
        return name, tensor

    assert compare_towers(rewritten(change), verifier).own is True


def test_the_two_16_bit_types_are_compared(verifier, rewritten, tmp_path):
    """As where LLaVA is in float16 and CLIP in bfloat16."""
    policy = rewritten(lambda name, tensor: (name, tensor.half()))
    clip = tmp_path / "clip"
    shutil.copytree(verifier.path_or_id, clip)
    weights = load_file(clip / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, clip / "model.safetensors")
    assert compare_towers(policy, ModelSource(str(clip))).own is True
    name = "vision_model.encoder.layers.0.mlp.fc2.weight"
    other = {**weights, name: weights[name] * 1.01}
    save_file({name: tensor.bfloat16() for name, tensor in other.items()}, clip / "model.safetensors")
    assert compare_towers(policy, ModelSource(str(clip))).different == (name.removeprefix("vision_model."),)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_of_one_tensor_tells_them_apart(verifier, rewritten, stored, caplog):
    place = "vision_tower.encoder.layers.2.mlp.fc1.weight"

    def change(name, tensor):
        if name == place:
            tensor = tensor.clone()
            tensor[100, 50] += 0.02 * tensor.abs().max()
        return name, tensor.to(stored)

    policy = rewritten(change)
    found = compare_towers(policy, verifier)
    assert found.own is False
    assert (found.equal, found.different, found.missing) == (70, (place.removeprefix("vision_tower."),), ())
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        assert own_encoder(policy, verifier) is False
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert policy.path_or_id in said and verifier.path_or_id in said
    assert "of 71 tensors of the policy's vision tower 1 differ and 0 are missing in the verifier" in said
    assert "Another model's eyes judge the policy" in said


def test_what_the_verifier_lacks_and_other_shapes_are_told(verifier, rewritten):
    def change(name, tensor):
        if "tower.encoder.layers.3" in name:
            return name.replace("layers.3", "layers.4"), tensor
        return name, tensor[:5].contiguous() if name.endswith("tower.embeddings.position_embedding.weight") else tensor

    found = compare_towers(rewritten(change), verifier)
    assert found.own is False
    assert len(found.missing) == 16 and found.missing[0].startswith("encoder.layers.4.")
    assert found.different == ("embeddings.position_embedding.weight",)


def test_instructblip_with_the_blip2_around_its_tower(tmp_path):
    policy = ModelSource(str(build("instructblip", tmp_path / "policy")))
    other = ModelSource(str(save_blip2(tmp_path / "verifier")))
    assert compare_towers(policy, other).own is False
    mine = load_file(tmp_path / "policy" / "model.safetensors")
    tower = {name: tensor for name, tensor in mine.items() if name.startswith("vision_model.")}
    assert tower, "InstructBLIP's own spelling"
    theirs = load_file(tmp_path / "verifier" / "model.safetensors")
    rest = {name: tensor for name, tensor in theirs.items() if not name.startswith("vision_model.")}
    save_file({**rest, **tower}, tmp_path / "verifier" / "model.safetensors")
    assert compare_towers(policy, other).own is True


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def escaping(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def quantised(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "vision_tower.encoder.layers.0.mlp.fc1.weight"
    save_file({**weights, name: weights[name].to(torch.uint8)}, folder / "model.safetensors")


def renamed(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n.replace("vision_tower", "visual"): t for n, t in weights.items()}, folder / "model.safetensors")


def elsewhere(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n.replace("tower.", "tower.trunk."): t for n, t in weights.items()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (shutil.rmtree, "no model folder"),
        (pickled, r"has no model\.safetensors"),
        (damaged, "header"),
        (escaping, "which is no file beside it"),
        (quantised, "holds U8"),
        (renamed, "holds no tensor"),
        (elsewhere, "no tensor has the same name in both"),
    ],
)
def test_what_cannot_be_compared_is_unknown_and_never_an_error(verifier, rewritten, caplog, spoil, reason):
    policy = rewritten(same)
    spoil(Path(policy.path_or_id))
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert own_encoder(policy, verifier) is None
    said = caplog.records[0].getMessage()
    assert "cannot be compared" in said and policy.path_or_id in said and verifier.path_or_id in said
    assert module.re.search(reason, said), said


def test_the_same_two_models_are_read_once(verifier, rewritten, monkeypatch):
    policy = rewritten(same)
    opened = []
    whole = module.safe_open
    monkeypatch.setattr(module, "safe_open", lambda *a, **o: (opened.append(a), whole(*a, **o))[1])
    assert compare_towers(policy, verifier).own
    assert compare_towers(policy, verifier).own
    assert len(opened) == 2
