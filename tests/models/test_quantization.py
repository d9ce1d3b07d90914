"""4-bit weights: refusals without the library, and with it the real thing on the CPU."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from tests.backbone_zoo import ZOO, Picture, build
from tests.pocket_models import stir
from transformers import AutoConfig, AutoModelForImageTextToText

from fisao_pipeline.models import packages, quantization
from fisao_pipeline.models.checkpointing import checkpoint_activations
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.lora import language_tower_name
from fisao_pipeline.models.merging import merge_adapter
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.quantization import is_four_bit, outside_language_tower, quantizable_parameters
from fisao_pipeline.models.shape import policy_shape
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.planning import memory

ALL = LoraParams(rank=4, alpha=8, targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return build("llava", tmp_path_factory.mktemp("zoo") / "llava")


@pytest.fixture
def four_bit(llava):
    return ModelSource(str(llava), dtype="float32", device="cpu", quantization="nf4")


def batch_of(policy):
    return policy.encode(["a dog", "what is this"], ["square", "wide"], Picture())


# --- what is refused -------------------------------------------------------------------------------------------------


def test_without_the_library_it_says_how_to_get_it(four_bit, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"nf4.*needs bitsandbytes: `pip install 'fisao-pipeline\[quantization\]'"):
        Policy.load(four_bit)


def test_a_verifier_is_not_quantized(world):
    with pytest.raises(ValueError, match="only a policy can be quantized"):
        load_verifier(replace(world.verifier_source, quantization="nf4"))


def test_a_device_or_type_that_cannot_is_named(four_bit, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        quantization.four_bit_options(AutoModelForImageTextToText, None, four_bit, torch.device("mps"))
    with pytest.raises(ValueError, match="set `dtype: bfloat16`"):
        Policy.load(replace(four_bit, dtype="auto"))


def test_the_options_of_transformers_cannot_bring_it_in_by_the_back_door(four_bit):
    source = replace(four_bit, quantization=None, options={"model": {"load_in_4bit": True}})
    with pytest.raises(ValueError, match="load_in_4bit cannot be set there"):
        Policy.load(source)


# --- which layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_all_that_is_outside_the_language_tower_is_left_alone_and_all_inside_is_not(name):
    """For every kind of backbone: the names are matched as transformers matches them."""
    from transformers.quantizers.quantizers_utils import should_convert_module

    with torch.random.fork_rng(devices=[]):
        model, _ = ZOO[name]()
    tower = language_tower_name(model)
    skipped = outside_language_tower(model)
    linear = [n for n, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    converted = {n for n in linear if should_convert_module(n, skipped)}
    assert converted == {n for n in linear if n.startswith(f"{tower}.")}
    assert converted
    assert len(converted) < len(linear)


# --- with the library ------------------------------------------------------------------------------------------------


@needs_bitsandbytes
def test_only_the_language_towers_linear_layers_become_four_bit(four_bit):
    policy = Policy.load(four_bit)
    plain = Policy.load(replace(four_bit, quantization=None))
    tower = language_tower_name(plain.backbone)
    packed = {name for name, module in policy.backbone.named_modules() if is_four_bit(module)}
    assert packed == {
        name
        for name, module in plain.backbone.get_submodule(tower).named_modules(prefix=tower)
        if isinstance(module, torch.nn.Linear)
    }
    before, after = plain.backbone.state_dict(), policy.backbone.state_dict()
    untouched = {name for name in before if name.rpartition(".")[0] not in packed}
    assert len(untouched) > 20
    assert all(torch.equal(before[name], after[name]) for name in untouched)
    assert policy.identity == f"{plain.identity} in nf4"


@needs_bitsandbytes
def test_it_answers_nearly_as_in_full_precision_and_not_the_same(four_bit):
    policy, plain = Policy.load(four_bit), Policy.load(replace(four_bit, quantization=None))
    ids, mask = torch.full((2, 5), 7), torch.ones(2, 5, dtype=torch.bool)
    found, wanted = (p.score(batch_of(p), ids, mask, 1.0)[0] for p in (policy, plain))
    assert not torch.allclose(found, wanted, atol=1e-4)
    # Weights of a random model are hit harder than trained ones; a wrong layer would be far off.
    assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.8


@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_lora_weight_and_nothing_else(four_bit, checkpointing):
    policy = stir(Policy.load(four_bit, lora=ALL))
    # A pass without gradients comes first in every round, and must not take them from those after it.
    policy.sample(batch_of(policy), Decoding(max_new_tokens=2, temperature=1.0))
    if checkpointing:
        assert checkpoint_activations(policy.backbone) == 2
    ids, mask = torch.full((4, 5), 7), torch.ones(4, 5, dtype=torch.bool)
    logprobs, _ = policy.score(batch_of(policy), ids, mask, 1.0, prompt_of_row=[0, 0, 1, 1])
    logprobs.sum().backward()
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * len(ALL.targets)
    assert all(".lora_" in name and p.grad is not None and p.grad.abs().sum() > 0 for name, p in trained.items())
    assert all(p.dtype == torch.float32 for p in trained.values())


@needs_bitsandbytes
def test_the_plan_counts_the_bytes_that_are_there(four_bit):
    """Weights, and the scales that bitsandbytes keeps beside them; its code books of 272 numbers are left out."""
    policy = Policy.load(four_bit)
    shape = policy_shape(four_bit, ALL)
    layers = [module for module in policy.backbone.modules() if is_four_bit(module)]
    assert shape.linear_parameters == quantizable_parameters(Policy.load(replace(four_bit, quantization=None)).backbone)
    held = sum(p.nbytes for p in policy.backbone.parameters())
    for layer in layers:
        state = layer.weight.quant_state
        held += state.absmax.nbytes + state.state2.absmax.nbytes
    # Blocks of a small layer are not full.
    assert held == pytest.approx(memory.weight_bytes(shape), rel=0.02)
    saved = memory.weight_bytes(replace(shape, quantization=None)) - memory.weight_bytes(shape)
    assert saved == pytest.approx(shape.linear_parameters * (4 - 0.516), rel=0.001)


@needs_bitsandbytes
def test_an_adapter_trained_on_four_bits_is_merged_into_the_weights_they_were_made_of(four_bit, tmp_path):
    from safetensors.torch import load_file

    from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
    from fisao_pipeline.models.source import identity

    config, state = stir(Policy.load(four_bit, lora=ALL)).adapter_state()
    adapter = tmp_path / "adapter"
    AdapterFolderDataset(filepath=adapter.as_posix()).save(
        AdapterArtifact(config, state, "# Card\n", identity(four_bit))
    )
    output = tmp_path / "merged"
    output.mkdir()
    merge_adapter(four_bit, adapter, output)
    base, merged = (load_file(f"{folder}/model.safetensors") for folder in (four_bit.path_or_id, output))
    assert {t.dtype for t in merged.values()} == {torch.float32}
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == 2 * len(ALL.targets)
    again = AutoConfig.from_pretrained(output)
    assert getattr(again, "quantization_config", None) is None
    # And the adapter goes back onto the 4-bit model, for the evaluation.
    assert Policy.load(four_bit, adapter=adapter).adapter_parameters() is not None
