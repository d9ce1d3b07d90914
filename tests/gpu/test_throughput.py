"""The measurement at tiny size on the CPU, so that it works; and of LLaVA-1.5-7B's size where there is a GPU.

pytest -m gpu tests/gpu/test_throughput.py
"""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests.gpu.throughput import Bench, measure
from tests.training.test_ppo import params
from transformers import CLIPTextConfig, CLIPVisionConfig, LlamaConfig

from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.plan import PlanParams
from fisao_pipeline.pipelines.plan.nodes import card_here

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def tiny(**changes) -> Bench:
    given = {
        "vision": CLIPVisionConfig(**SMALL, image_size=32, patch_size=16),
        "text": LlamaConfig(**SMALL, vocab_size=600),
        "clip_text": CLIPTextConfig(**SMALL, projection_dim=16),
        "dtype": "float32",
        "prompts": 4,
        "responses": 2,
        "new_tokens": 5,
        "ppo": params(batch_size=8, micro_batch_size=4),
        "lora": LoraParams(rank=2, alpha=4, targets=TARGETS),
        "checkpointing": False,
    }
    return Bench(**{**given, **changes})


def llava_15_7b() -> Bench:
    """LLaVA-1.5's sizes: CLIP ViT-L/14 at 336 pixels, Vicuna-7B with its extended vocabulary."""
    return Bench(
        vision=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text=LlamaConfig(vocab_size=32064, max_position_embeddings=4096),
        clip_text=CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
        ),
        dtype="bfloat16",
        prompts=16,
        responses=4,
        new_tokens=128,
        ppo=params(batch_size=64, micro_batch_size=8, logprob_tolerance=1.0, learning_rate=1e-6),
        lora=LoraParams(rank=64, alpha=128, targets=TARGETS),
        checkpointing=True,
    )


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16", "checkpointing": True}], ids=["float32", "bfloat16"])
def test_it_measures(changes):
    said: list[str] = []
    bench = tiny(**changes, ppo=params(batch_size=8, micro_batch_size=4, logprob_tolerance=1.0))
    found = measure(bench, "cpu", 1e12, said.append)
    assert found["new_tokens"] == 4 * 2 * 5
    assert found["step"]["updates"] == 1
    phases = {name: found[name] for name in ("annotation", "sampling", "scoring", "update")}
    for name, phase in phases.items():
        assert phase["peak_bytes"] is None
        assert phase["mfu"] == pytest.approx(phase["flops"] / phase["seconds"] / 1e12)
        assert sum(line.startswith(f"{name}: ") and "MFU" in line for line in said) == 1
    assert phases["update"]["flops"] == phases["scoring"]["flops"], "two forward passes; a step is twice one"
    assert all(bench.dtype in words for words in found["runs_on"].values())


def test_a_steps_work_is_four_operations_a_parameter_and_token():
    """Of the language tower and the output layer, with attention on top."""
    bench = tiny()
    found = measure(bench, "cpu", None, lambda line: None)
    shape = found["shape"]
    count = found["update"]["per_second"] * found["update"]["seconds"]
    drawn = bench.prompts * bench.responses * bench.new_tokens
    parameters = 4 * count * shape.language_parameters + 4 * drawn * shape.head_parameters
    attention = 2 * 4 * shape.layers * shape.query_width * (count / bench.prompts) * count
    assert found["update"]["flops"] == pytest.approx(parameters + attention)
    assert found["update"]["mfu"] is None


def test_the_large_one_is_of_the_size_it_says():
    bench = llava_15_7b()
    from transformers import LlavaConfig

    from fisao_pipeline.models.shape import shape_of_config

    config = LlavaConfig(vision_config=bench.vision.to_dict(), text_config=bench.text.to_dict())
    shape = shape_of_config(config, bench.dtype, bench.lora)
    assert shape.parameters == 7_063_427_072, "as llava-hf/llava-1.5-7b-hf"
    assert shape.image_tokens == 576


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_llava_15_7b_on_this_gpu(capsys):
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    text = (Path(__file__).parents[2] / "conf" / "base" / "parameters_plan.yml").read_text()
    card = card_here(PlanParams.model_validate(yaml.safe_load(text)["plan"]))
    say(f"{card.name}, {card.memory_gib:.1f} GiB")
    found = measure(llava_15_7b(), "cuda", card.bfloat16_tflops * 1e12, say)
    assert all("in bfloat16" in words and "on cuda" in words for words in found["runs_on"].values())
    for name in ("annotation", "sampling", "scoring", "update"):
        assert 0 < found[name]["mfu"] < 1
        assert found[name]["peak_bytes"] < card.memory_gib * 2**30
