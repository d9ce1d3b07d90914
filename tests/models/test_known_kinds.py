"""What a run is told of its models before it starts: as loading would, and without torch for the usual kinds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from fisao_pipeline.models import verifier
from fisao_pipeline.models.backbones.choice import KINDS
from fisao_pipeline.models.known_kinds import BLIP2_VERIFIER, POLICY_KINDS, VERIFIER_KINDS, unusable
from fisao_pipeline.models.source import ModelSource

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"


def test_the_usual_policies_are_those_that_there_are():
    assert set(KINDS) == POLICY_KINDS


@pytest.mark.parametrize("kind", sorted(VERIFIER_KINDS))
def test_a_usual_verifier_is_a_dual_encoder(kind):
    verifier.check_scores(CONFIG_MAPPING[kind](), "m")
    assert CONFIG_MAPPING[kind] in MODEL_MAPPING


def test_the_shipped_models_are_looked_at_without_torch():
    roles = {"policy_backbone": ["pocket_vlm", "pocket_instructblip"], "verifier": ["pocket_verifier", "pocket_blip2"]}
    places = [(role, str(SHIPPED / name)) for role, names in roles.items() for name in names]
    code = (
        "import sys; from pathlib import Path; from fisao_pipeline.models.known_kinds import unusable; "
        "from fisao_pipeline.models.source import ModelSource; "
        f"print([unusable(role, ModelSource(place), Path(place)) for role, place in {places}], "
        "sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"{[None] * 4} []"


@pytest.mark.parametrize(
    ("role", "config", "said"),
    [
        ("policy_backbone", {"model_type": "mllama"}, "cross-attention"),
        ("policy_backbone", {"model_type": "deep_thought", "auto_map": {"AutoConfig": "x.Y"}}, "code of its own"),
        ("verifier", {"model_type": "blip-2", "architectures": ["Blip2Model"]}, "without projections"),
        ("verifier", {"model_type": "siglip_vision_model"}, "no text tower"),
        ("verifier", {"model_type": "deep_thought", "auto_map": {"AutoConfig": "x.Y"}}, "code of its own"),
        # Not usual, and yet it can be used; what brings code for a kind that transformers knows needs none of it.
        ("verifier", {"model_type": "blip"}, None),
        ("verifier", {"model_type": "blip-2", "architectures": ["Other", BLIP2_VERIFIER]}, None),
        ("policy_backbone", {"model_type": "llava", "auto_map": {"AutoConfig": "x.Y"}}, None),
        ("pocket_clip", {"model_type": "mllama"}, None),
    ],
)
def test_what_cannot_be_used_is_told_from_its_configuration(tmp_path, role, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = unusable(role, ModelSource(str(tmp_path)), tmp_path)
    assert told is None if said is None else told is not None and said in told


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_configuration_that_cannot_be_read_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert unusable("verifier", ModelSource(str(tmp_path)), tmp_path)
