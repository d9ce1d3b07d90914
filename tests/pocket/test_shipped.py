"""The pocket models in git: small, without code of their own, and they have learnt."""

import json
from pathlib import Path

import pytest
from tests.pocket.test_captioning import presence_auroc

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.own_encoder import compare_towers
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.pocket.language import CAPTION_PROMPTS
from fisao_pipeline.pocket.scenes import draw_scenes, render_scene

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"
PAIRS = {
    "pocket_world": ("pocket_verifier", "pocket_vlm"),
    "pocket_instructblip": ("pocket_blip2", "pocket_instructblip"),
}


@pytest.fixture(scope="module", params=PAIRS)
def pair(request) -> tuple[ModelSource, ModelSource]:
    """Verifier and policy."""
    names = PAIRS[request.param]
    if not all((SHIPPED / name / "config.json").is_file() for name in names):
        pytest.skip(f"{' and '.join(names)} are not in data/06_models; `kedro run --pipelines={request.param}`")
    return tuple(ModelSource(str(SHIPPED / name), dtype="float32", device="cpu") for name in names)


def test_they_are_small(pair):
    files = [file for source in pair for file in Path(source.path_or_id).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 10e6


def test_the_verifier_tells_what_is_in_a_picture(pair):
    assert presence_auroc(load_verifier(pair[0]), draw_scenes(200, 987_654)) >= 0.95


def test_the_policy_speaks_of_the_world(pair):
    policy = Policy.load(pair[1])
    scenes = draw_scenes(8, 987_654)
    pictures = {f"s{n}": render_scene(scene) for n, scene in enumerate(scenes)}
    batch = policy.encode([CAPTION_PROMPTS[0]] * 8, list(pictures), pictures.__getitem__)
    completions = policy.sample(batch, Decoding(0.0, 64))
    texts, _ = policy.decode(completions.ids, completions.mask)
    assert all(text.strip().endswith(".") for text in texts), texts
    named = sum(category in text for text, scene in zip(texts, scenes, strict=True) for category in scene.counts)
    assert named > sum(len(scene.counts) for scene in scenes) / 2


def test_the_policys_eyes_are_the_verifiers(pair):
    verifier, policy = pair
    compared = compare_towers(policy, verifier)
    assert compared.own and compared.equal > 50, str(compared)


def test_they_need_no_code_of_their_own(pair):
    for source in pair:
        folder = Path(source.path_or_id)
        assert "auto_map" not in json.loads((folder / "config.json").read_text())
        assert not list(folder.glob("*.py"))
