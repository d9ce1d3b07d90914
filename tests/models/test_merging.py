"""A merged adapter is a full model that computes the same, its vision tower that of the base, bit by bit."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.pocket_models import stir
from transformers import AutoProcessor, LlavaForConditionalGeneration

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.models.checkpointing import checkpoint_activations
from fisao_pipeline.models.loading import check_dtype
from fisao_pipeline.models.merging import merge_adapter
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource, identity


@pytest.fixture(scope="module")
def adapter(world, tmp_path_factory):
    config, state = stir(world.policy()).adapter_state()
    folder = tmp_path_factory.mktemp("adapter") / "policy_adapter"
    dataset = AdapterFolderDataset(filepath=folder.as_posix())
    dataset.save(AdapterArtifact(config, state, "# Card\n", identity(world.policy_source)))
    return folder


def states(world, policy):
    with torch.no_grad():
        return policy.backbone(**world.batch(policy, 3).model_inputs()).logits


def test_the_merged_model_computes_the_same_and_sees_with_the_same_eyes(world, adapter, tmp_path):
    output = tmp_path / "merged"
    output.mkdir()
    kept = merge_adapter(world.policy_source, adapter, output)
    base = load_file(world.models / "pocket_vlm" / "model.safetensors")
    merged = load_file(output / "model.safetensors")
    assert base.keys() == merged.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert len(changed) == 3 * 3, "three layers, three targets"
    assert all("language_model" in name for name in changed)
    assert kept == sum(t.numel() for name, t in base.items() if "language_model.model" not in name) > 100_000
    LlavaForConditionalGeneration.from_pretrained(output)
    assert AutoProcessor.from_pretrained(output).tokenizer.vocab_size > 100
    with_adapter = states(world, Policy.load(world.policy_source, adapter=adapter))
    alone = states(world, Policy.load(ModelSource(str(output), dtype="float32", device="cpu")))
    torch.testing.assert_close(alone, with_adapter, atol=1e-4, rtol=1e-4)
    plain = states(world, world.policy(lora=None))
    assert (alone - plain).abs().max() > 1e-2, "an adapter that does nothing would prove nothing"


def test_an_adapter_of_another_model_is_not_merged(world, adapter, tmp_path):
    (adapter / "base_model.json").rename(adapter / "aside.json")
    try:
        (adapter / "base_model.json").write_text(json.dumps({"identity": "sha256:another"}))
        with pytest.raises(ValueError, match="was trained for"):
            merge_adapter(world.policy_source, adapter, tmp_path)
    finally:
        (adapter / "aside.json").replace(adapter / "base_model.json")
    assert list(tmp_path.iterdir()) == []


# --- options of a large model --------------------------------------------------------------------------------------


def gradients(world, checkpointing):
    policy = stir(world.policy())
    layers = checkpoint_activations(policy.backbone) if checkpointing else 0
    batch = world.batch(policy, 2)
    ids, mask = torch.full((4, 5), 7), torch.ones(4, 5, dtype=torch.bool)
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = policy.score(batch, ids, mask, 1.0, prompt_of_row=[0, 0, 1, 1])
    logprobs.sum().backward()
    return layers, kept, [p.grad for p in policy.trainable_parameters()], policy


def test_checkpointing_changes_memory_and_no_gradient(world):
    _, kept, wanted, _ = gradients(world, False)
    layers, less, found, policy = gradients(world, True)
    assert layers == 3
    assert less < kept / 3
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    inside = [m for layer in policy.backbone.get_decoder().layers for m in layer.modules() if m is not layer]
    assert not any(module.training for module in inside), "no dropout"


def test_the_dtype_that_runs_is_the_one_asked_for(world):
    model = world.policy(lora=None).backbone
    check_dtype(model, ModelSource("x", dtype="float32"))
    check_dtype(model, ModelSource("x", dtype="auto"))
    with pytest.raises(ValueError, match=r"'x' was asked for in bfloat16, and 100% of its weights are float32"):
        check_dtype(model, ModelSource("x", dtype="bfloat16"))
    model.lm_head.to(torch.bfloat16)
    check_dtype(model, ModelSource("x", dtype="float32"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_step_is_fused(world):
    from tests.training.test_ppo import PARAMS

    from fisao_pipeline.training.learning import adapter_optimizer

    policy = world.policy()
    policy.backbone.to("cuda")
    assert adapter_optimizer(policy, PARAMS).defaults["fused"] is True
