"""The policy scores what it is given, adapter on or off, and nothing around a row changes the row."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.pocket_models import LORA, favour, stir
from transformers import LlavaForConditionalGeneration

from fisao_pipeline.datasets.adapter_folder import AdapterArtifact, AdapterFolderDataset
from fisao_pipeline.models.policy import Policy, check_adapter_fits
from fisao_pipeline.models.source import ModelSource, identity
from fisao_pipeline.params.lora import LoraParams

TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def policy(world) -> Policy:
    """With an adapter that does something."""
    return stir(world.policy())


def completions(policy: Policy, count: int, width: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random completions of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(300, 450, (count, width), generator=generator)
    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    lengths[0] = width
    return ids, torch.arange(width) < lengths[:, None]


@torch.no_grad()
def scores(policy: Policy, batch, ids, mask, **options) -> torch.Tensor:
    return policy.score(batch, ids, mask, TEMPERATURE, **options)[0]


def test_a_fresh_adapter_is_its_reference_bit_for_bit(world):
    policy = world.policy()
    ids, mask = completions(policy, 6)
    batch = world.batch(policy)
    assert torch.equal(scores(policy, batch, ids, mask), scores(policy, batch, ids, mask, reference=True))
    bare = world.policy(lora=None)
    assert torch.equal(scores(bare, world.batch(bare), ids, mask), scores(policy, batch, ids, mask))


def test_the_reference_is_the_backbone_however_the_adapter_was_trained(world, policy):
    ids, mask = completions(policy, 6)
    bare = world.policy(lora=None)
    reference = scores(policy, world.batch(policy), ids, mask, reference=True)
    assert torch.equal(reference, scores(bare, world.batch(bare), ids, mask))
    aligned = scores(policy, world.batch(policy), ids, mask)
    assert (aligned - reference)[mask].abs().max() > 0.01


def test_scores_are_those_of_the_full_forward_pass(world, policy):
    """Log-softmax over all logits, image token left out, written out for one row."""
    ids, mask = completions(policy, 3)
    batch = world.batch(policy, 3)
    image_token = policy.backbone.config.image_token_id
    for row, got in enumerate(scores(policy, batch, ids, mask)):
        length = int(mask[row].sum())
        one = batch.rows([row])
        inputs = one.model_inputs()
        inputs["input_ids"] = torch.cat([one.input_ids, ids[row : row + 1, :length]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            logits = policy.backbone(**inputs).logits[0, one.input_ids.shape[1] - 1 : -1].double() / TEMPERATURE
        logits[:, image_token] = -torch.inf
        expected = logits.log_softmax(-1).gather(-1, ids[row, :length, None]).squeeze(-1)
        torch.testing.assert_close(got[:length].double(), expected, atol=1e-5, rtol=1e-5)
        assert (got[length:] == 0).all()


def test_a_gradient_repeats_bit_by_bit_on_several_threads(world, policy):
    """Many completions add to the state that ends their prompt, and threads must not race for whose turn it is."""
    torch.manual_seed(0)
    ids, mask = completions(policy, 192, width=24)
    batch, threads = world.batch(policy, 2), torch.get_num_threads()
    weights, found = torch.randn(ids.shape), set()
    torch.set_num_threads(4)
    try:
        for _ in range(6):
            policy.model.zero_grad(set_to_none=True)
            logprobs, _ = policy.score(batch, ids, mask, TEMPERATURE, prompt_of_row=[0] * 96 + [1] * 96)
            (logprobs * weights).sum().backward()
            found.add(b"".join(p.grad.numpy().tobytes() for p in policy.adapter_parameters()))
    finally:
        torch.set_num_threads(threads)
        policy.model.zero_grad(set_to_none=True)
    assert len(found) == 1


def test_neither_batch_nor_order_nor_padding_changes_a_score(world, policy):
    ids, mask = completions(policy, 6)
    batch = world.batch(policy)
    assert not batch.attention_mask.all(), "the prompts must differ in length for this to test left padding"
    whole = scores(policy, batch, ids, mask)
    close = {"atol": 1e-5, "rtol": 1e-5}
    for row in range(6):
        torch.testing.assert_close(
            scores(policy, batch.rows([row]), ids[[row]], mask[[row]]), whole[[row]], **close, msg=f"row {row} alone"
        )
    order = [4, 0, 5, 2, 1, 3]
    torch.testing.assert_close(scores(policy, batch.rows(order), ids[order], mask[order]), whole[order], **close)
    halves = [scores(policy, batch.rows(part), ids[part], mask[part]) for part in ([0, 1, 2], [3, 4, 5])]
    torch.testing.assert_close(torch.cat(halves), whole, **close)
    junk = torch.full((6, 4), 7)
    wider = scores(policy, batch, torch.cat([ids, junk], 1), torch.cat([mask, torch.zeros(6, 4, dtype=torch.bool)], 1))
    torch.testing.assert_close(wider[:, :9], whole, **close)
    assert (wider[:, 9:] == 0).all()


def test_completions_that_share_their_prompt_score_as_if_they_did_not(world, policy):
    """Three of one prompt, one of another, and one that has no token, in any order."""
    ids, mask = completions(policy, 6)
    mask[4] = False
    batch = world.batch(policy, 3)
    assert not batch.attention_mask.all()
    owners = [1, 0, 1, 2, 0, 1]
    shared = scores(policy, batch, ids, mask, prompt_of_row=owners)
    torch.testing.assert_close(shared, scores(policy, batch.rows(owners), ids, mask), atol=1e-5, rtol=1e-5)
    reference = scores(policy, batch, ids, mask, prompt_of_row=owners, reference=True)
    expected = scores(policy, batch.rows(owners), ids, mask, reference=True)
    torch.testing.assert_close(reference, expected, atol=1e-5, rtol=1e-5)


def test_completions_that_share_a_prompt_do_not_see_each_other(world, policy):
    ids, mask = completions(policy, 2)
    batch = world.batch(policy, 1)
    other = ids.clone()
    other[0] = 350
    first, second = (scores(policy, batch, i, mask, prompt_of_row=[0, 0])[1] for i in (ids, other))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_what_lies_behind_the_mask_changes_nothing(world, policy):
    ids, mask = completions(policy, 6)
    other = torch.where(mask, ids, 301)
    assert not torch.equal(ids, other)
    batch = world.batch(policy)
    torch.testing.assert_close(scores(policy, batch, other, mask), scores(policy, batch, ids, mask))


def test_a_score_depends_on_the_picture(world, policy):
    ids, mask = completions(policy, 2)
    prompts = ["Describe this image."] * 2
    pairs = [policy.encode(prompts, images, world.open_image) for images in (["i00", "i01"], ["i01", "i00"])]
    first, second = (scores(policy, batch, ids, mask) for batch in pairs)
    assert (first - second)[mask].abs().max() > 1e-4


def test_values_are_of_the_policy_only(world):
    policy = stir(world.policy())
    ids, mask = completions(policy, 4)
    batch = world.batch(policy, 4)
    assert (policy.score(batch, ids, mask, 1.0)[1] == 0).all()
    policy.add_value_head()
    assert (policy.score(batch, ids, mask, 1.0)[1] == 0).all()
    torch.nn.init.constant_(policy.value_head.linear.bias, 2.0)
    _, values = policy.score(batch, ids, mask, 1.0)
    assert torch.equal(values, torch.where(mask, 2.0, 0.0))
    assert (policy.score(batch, ids, mask, 1.0, reference=True)[1] == 0).all()


def test_the_image_token_has_no_probability(world):
    """It takes no probability from the others, however high its logit."""
    plain = world.policy()
    image_token = plain.backbone.config.image_token_id
    ids, mask = completions(plain, 4)
    expected = scores(plain, world.batch(plain, 4), ids, mask)
    tampered = favour(world.policy(), image_token, 100.0)
    torch.testing.assert_close(scores(tampered, world.batch(tampered, 4), ids, mask), expected, atol=1e-5, rtol=1e-5)


def save_adapter(policy: Policy, folder):
    config, state = policy.adapter_state()
    dataset = AdapterFolderDataset(filepath=str(folder))
    dataset.save(AdapterArtifact(config, state, base_model=policy.identity))
    return dataset.load()


def test_a_saved_adapter_scores_the_same_here_and_in_peft(world, policy, tmp_path):
    adapter = save_adapter(policy, tmp_path / "adapter")
    ids, mask = completions(policy, 6)
    expected = scores(policy, world.batch(policy), ids, mask)
    loaded = Policy.load(world.policy_source, adapter=adapter)
    assert torch.equal(scores(loaded, world.batch(loaded), ids, mask), expected)
    plain = LlavaForConditionalGeneration.from_pretrained(world.policy_source.path_or_id, dtype=torch.float32)
    elsewhere = Policy(PeftModel.from_pretrained(plain, str(adapter)), policy.processor)
    assert torch.equal(scores(elsewhere, world.batch(elsewhere), ids, mask), expected)


def test_a_saved_adapter_names_its_base_and_its_tensors_are_not_the_live_ones(world, policy, tmp_path):
    adapter = save_adapter(policy, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == world.policy_source.path_or_id
    assert config["inference_mode"] is True
    assert config["revision"] is None, "PEFT would ask the hub for it"
    assert json.loads((adapter / "base_model.json").read_text()) == {"identity": identity(world.policy_source)}
    stored = load_file(adapter / "adapter_model.safetensors")
    assert all(".language_model." in name for name in stored)


def test_a_kept_state_does_not_follow_the_training_that_comes_after(world):
    policy = stir(world.policy())
    _, state = policy.adapter_state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    stir(policy, scale=1.0)
    assert all(torch.equal(state[name], before[name]) for name in state), "adapter_state must be a snapshot"


def test_an_adapter_of_another_base_is_refused_by_name(world, policy, tmp_path):
    adapter = save_adapter(policy, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    from safetensors.torch import save_file

    tensors = {
        name: torch.zeros(t.shape[0], 4096) if ".lora_A." in name else t for name, t in load_file(weights).items()
    }
    save_file(tensors, weights)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "llava-hf/llava-1.5-7b-hf"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"llava-hf/llava-1\.5-7b-hf.*does not fit.*pocket_vlm.*4096"):
        Policy.load(world.policy_source, adapter=adapter)


def test_the_adapter_of_a_hub_model_has_the_hubs_revision(world, monkeypatch):
    from fisao_pipeline.models import policy as module

    loaded = module.load_pretrained(module.AutoModelForImageTextToText, world.policy_source)
    monkeypatch.setattr(module, "load_pretrained", lambda auto_class, source: loaded)
    hub = Policy.load(ModelSource("llava-hf/llava-1.5-7b-hf", revision="b234b80"), lora=LORA)
    assert hub.adapter_state()[0]["revision"] == "b234b80"
    assert hub.identity == "llava-hf/llava-1.5-7b-hf@b234b80"


@pytest.mark.parametrize("older", [False, True])
def test_an_adapter_of_a_base_of_the_same_shapes_is_refused(world, policy, tmp_path, older):
    """By the file beside it; by PEFT's `revision`, which an older version filled, if there is no such file."""
    adapter = save_adapter(policy, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    file = adapter / "base_model.json"
    for other, refused in (("sha256:0123456789abcdef", True), ("llava-hf/llava-1.5-7b-hf@main", True), (None, False)):
        file.unlink(missing_ok=True)
        if not older and other:
            file.write_text(json.dumps({"identity": other}))
        text = json.dumps({**config, "revision": other if older else "main"})
        (adapter / "adapter_config.json").write_text(text)
        if refused:
            with pytest.raises(ValueError, match=f"trained for .* \\({other}\\) and not for"):
                Policy.load(world.policy_source, adapter=adapter)
        else:
            assert Policy.load(world.policy_source, adapter=adapter).identity == identity(world.policy_source)


def test_an_adapter_for_layers_that_are_not_there_is_refused(world, policy, tmp_path):
    from safetensors.torch import save_file

    adapter = save_adapter(policy, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    save_file({name.replace(".layers.2.", ".layers.31."): t for name, t in load_file(weights).items()}, weights)
    with pytest.raises(ValueError, match=r"layers\.31\..* is None"):
        check_adapter_fits(adapter, world.policy(lora=None).backbone)


def test_without_an_adapter_there_is_none_to_save(world):
    with pytest.raises(TypeError, match="no adapter"):
        world.policy(lora=None).adapter_state()


def test_only_adapter_and_value_head_train(world):
    policy = world.policy(lora=LoraParams(rank=2, alpha=4, targets=("q_proj",)))
    assert len(policy.trainable_parameters()) == 2 * 3
    policy.add_value_head()
    assert len(policy.trainable_parameters()) == 2 * 3 + 2


def test_decode_leaves_out_what_the_mask_leaves_out(policy):
    ids = policy.tokenizer("a dog and a cat", add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*ids, 300, 301]])
    mask = torch.tensor([[True] * len(ids) + [False] * 2])
    texts, spans = policy.decode(row, mask)
    assert texts == ["a dog and a cat"]
    assert len(spans[0]) == len(ids)
