"""The pocket CLIP's image tower in BLIP-2's classes: the same eyes."""

import pytest
import torch
from tests.pocket.conftest import untrained_clip
from torch.nn import functional
from transformers import Blip2VisionConfig, Blip2VisionModel, CLIPVisionConfig

from fisao_pipeline.pocket.transplant import tower_sizes, transplant


@torch.no_grad()
def test_it_sees_what_clips_last_layer_but_one_does():
    clip = untrained_clip()
    generator = torch.Generator().manual_seed(1)
    for parameter in clip.vision_model.parameters():
        # Norms and biases that say something, and embeddings whose spread differs from patch to patch.
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    tower = Blip2VisionModel(Blip2VisionConfig(**tower_sizes(clip.config.vision_config))).eval()
    transplant(clip.vision_model, tower)
    pixels = torch.randn(3, 3, 48, 48, generator=generator) * torch.tensor([0.1, 1.0, 3.0])[:, None, None, None]
    expected = clip.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    found = tower(pixels).last_hidden_state
    torch.testing.assert_close(found, functional.layer_norm(expected, (expected.shape[-1],)), atol=2e-2, rtol=0)
    assert expected.std() > 0.3


def test_a_tower_too_narrow_to_pass_on_what_it_reads_is_refused():
    with pytest.raises(ValueError, match="intermediate_size 96 is less than twice 64"):
        tower_sizes(CLIPVisionConfig(hidden_size=64, intermediate_size=96, num_attention_heads=4))
