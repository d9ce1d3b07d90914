"""The plan's figures against hand computation, and against bytes counted in a real model where they can be."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from tests.bench.worlds import shipped_block, training_params
from tests.pocket_models import LORA, PocketWorld, build_pocket_models, favour, stir
from tests.training.test_evaluation import PARAMS as EVALUATION
from tests.training.test_loop import SAMPLING, settings
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from fisao_pipeline.models import decoding
from fisao_pipeline.models.packing import pack_completions
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shape import PolicyShape, VerifierShape, policy_shape, shape_of_config, verifier_shape
from fisao_pipeline.models.shared_prompts import cache_of_completions
from fisao_pipeline.models.source import ModelNotFoundError, ModelSource
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.params.plan import Card, PlanParams, Utilisation
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.planning import memory, work
from fisao_pipeline.planning.memory import Lengths
from fisao_pipeline.planning.plan import GIB, Run, fixed_bytes, format_plan, plan_run

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> PocketWorld:
    return PocketWorld.make(build_pocket_models(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def shape(world) -> PolicyShape:
    return policy_shape(world.policy_source, LORA)


SMALL = PolicyShape(
    kind="Small",
    dtype="bfloat16",
    parameters=1000,
    language_parameters=700,
    head_parameters=100,
    vision_parameters=200,
    lora_parameters=2 * 2 * ((8 + 8) + (8 + 4)),
    lora_layers=((8, 8), (8, 4)),
    layers=2,
    hidden=8,
    intermediate=20,
    query_width=8,
    key_width=4,
    vocabulary=50,
    context_tokens=64,
    image_tokens=5,
    vision_tokens=9,
)
LENGTHS = Lengths(prompt=10, response=6, group=3)


def plan_of(shape: PolicyShape, card: Card | None = None, **ppo: int) -> dict:
    """The shipped settings' plan of a policy, for a card or for those of the parameters."""
    run = Run(
        shape,
        None,
        {},
        ResponseSamplingParams.model_validate(shipped_block("response_sampling")),
        training_params(**ppo),
        BenchmarkEvaluationParams.model_validate(shipped_block("benchmark_evaluation")),
        checkpointing=False,
        feature_cache_bytes=0,
    )
    return plan_run(run, PlanParams.model_validate(shipped_block("plan")), card)


# --- sizes ---------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_loaded_model(world, shape):
    policy = world.policy()
    assert shape.parameters == sum(p.numel() for n, p in policy.model.named_parameters() if ".lora_" not in n)
    assert shape.lora_parameters == sum(p.numel() for p in policy.trainable_parameters())
    tower = policy.backbone.get_decoder()
    assert shape.language_parameters == sum(p.numel() for n, p in tower.named_parameters() if ".lora_" not in n)
    assert shape.head_parameters == policy.backbone.lm_head.weight.numel()
    vision = ("vision_tower", "multi_modal_projector")
    assert shape.vision_parameters == sum(
        p.numel() for n, p in policy.model.named_parameters() if any(part in n for part in vision)
    )
    batch = world.batch(policy, 1)
    assert shape.image_tokens == int((batch.input_ids == policy.backbone.config.image_token_id).sum())
    assert [sorted(pair) for pair in shape.lora_layers] == [[128, 128], [128, 128], [128, 352]]
    verifier = world.verifier().model
    assert verifier_shape(world.verifier_source).parameters == sum(p.numel() for p in verifier.parameters())


def test_weight_bytes_are_those_of_the_file(world, shape):
    """Beside the weights the file has a header only."""
    size = (world.models / "pocket_vlm" / "model.safetensors").stat().st_size
    assert 0 < size - memory.weight_bytes(shape) < 50_000
    half = replace(shape, dtype="bfloat16")
    assert memory.weight_bytes(half) * 2 == memory.weight_bytes(shape)


def test_a_configuration_is_enough(world, tmp_path, shape):
    (tmp_path / "config.json").write_bytes((world.models / "pocket_vlm" / "config.json").read_bytes())
    assert policy_shape(ModelSource(str(tmp_path), dtype="auto"), LORA) == shape


def test_a_model_whose_responses_share_nothing_is_planned_so_with_the_reasons(world):
    source = replace(world.policy_source, options={"model": {"attn_implementation": "eager"}})
    eager = policy_shape(source, LORA)
    assert not eager.packs and "eager" in eager.unpacked
    planned = plan_of(eager)
    drawn, scored = [line for line in format_plan(planned).splitlines() if "each response" in line]
    assert drawn == "sampling   each response with its own copy of the prompt's cache: attention 'eager' is not torch's"
    assert scored.startswith("scoring    each response behind its own prompt: attention 'eager'")
    assert "each response" not in format_plan(plan_of(policy_shape(world.policy_source, LORA)))


def test_without_a_configuration_it_says_how_to_get_one(tmp_path):
    with pytest.raises(ModelNotFoundError, match="hf download"):
        policy_shape(ModelSource(str(tmp_path / "none")), LORA)


def test_llava_at_7b_has_the_published_sizes():
    """7,063,427,072 parameters; 39,976,960 for rank 16 on all linear layers of its LLaMA."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=LlamaConfig(vocab_size=32064),
    )
    large = shape_of_config(config, "bfloat16", LoraParams(rank=16, alpha=32, targets=ALL))
    assert large.parameters == 7_063_427_072
    assert large.lora_parameters == 16 * 32 * (4 * (4096 + 4096) + 3 * (4096 + 11008)) == 39_976_960
    assert large.image_tokens == large.vision_tokens == 576
    assert memory.weight_bytes(large) == 14_126_854_144
    # Half a megabyte of keys and values a token, known of LLaMA at 7B in 16 bits.
    assert memory.token_cache_bytes(large) == 2 * 32 * 4096 * 2 == 524_288


# --- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "head"), [(None, 129), (8, 129 * 8 + 9)])
def test_an_optimiser_holds_what_is_planned(world, shape, width, head):
    policy = stir(world.policy())
    policy.add_value_head(width)
    parameters = policy.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    measured = sum(t.nbytes for t in [*parameters, *(p.grad for p in parameters), *held])
    assert memory.value_head_parameters(128, width) == head
    assert memory.adapter_bytes(shape, head) == measured
    assert memory.adapter_bytes(shape, 0) == measured - 16 * head


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("new", [1, 5, 33, 34])
def test_the_cache_holds_what_is_planned(world, monkeypatch, attention, new):
    """Counted in the cache of completions that are drawn, after the last token that is run."""
    source = replace(world.policy_source, options={"model": {"attn_implementation": attention}})
    shape, policy = policy_shape(source, LORA), Policy.load(source, lora=None)
    assert (shape.unshared is None) == (attention == "sdpa")
    favour(policy, policy.tokenizer.eos_token_id, -100.0)
    held = []

    @contextmanager
    def watched(*arguments):
        with cache_of_completions(*arguments) as cache:
            yield cache
            tensors = {id(t): t.nbytes for layer in cache.layers for t in vars(layer).values() if torch.is_tensor(t)}
            held.append(sum(tensors.values()))

    monkeypatch.setattr(decoding, "cache_of_completions", watched)
    batch, k = world.batch(policy, 2), 3
    policy.sample(batch, decoding.Decoding(0.0, new), k)
    lengths = Lengths(batch.input_ids.shape[1], new, k)
    assert held == [memory.cache_bytes(shape, lengths, 2 * k)]
    assert memory.sampling_bytes(shape, lengths, 2 * k) > held[0] * (1 + 1 / shape.layers)


@pytest.mark.parametrize(("targets", "dtype"), [(ALL, "float32"), (ALL, "bfloat16"), (("q_proj",), "bfloat16")])
def test_activations_are_close_to_what_autograd_keeps(world, targets, dtype):
    """Distinct storages that the graph of one scoring pass holds, weights aside."""
    lora = LoraParams(rank=4, alpha=8, targets=targets)
    source = replace(world.policy_source, dtype=dtype)
    torch.manual_seed(0)
    policy = stir(Policy.load(source, lora=lora))
    prompts = world.prompts.head(2)
    batch = policy.encode(prompts["prompt"].tolist(), prompts["image_id"].tolist(), world.open_image)
    k, new = 4, 12
    ids, mask = torch.full((2 * k, new), 7), torch.ones(2 * k, new, dtype=torch.bool)
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = policy.score(batch, ids, mask, 1.0, prompt_of_row=[n // k for n in range(2 * k)])
    assert logprobs.requires_grad
    lengths = Lengths(batch.input_ids.shape[1], new, k)
    packed = pack_completions(batch.input_ids, batch.attention_mask, ids, mask, [n // k for n in range(2 * k)])
    shape = policy_shape(source, lora)
    assert (2, packed.input_ids.shape[1]) == lengths.scored(2 * k, shape)
    planned = memory.activation_bytes(shape, lengths, 2 * k, checkpointing=False)
    # The chunk of logits is made again in the backward pass and not among what is kept.
    planned -= 2 * k * new * shape.vocabulary * (shape.dtype_bytes + 12)
    assert sum(kept.values()) == pytest.approx(planned, rel=0.15)


def test_activations_by_hand():
    # 2 · 4 · 8 of norms; 2 (2 · 8 + 2 · 4) of attention; 3 · 2 · 20; inputs 2 · (8 + 8), products 2 · 2 · 2.
    kept = 64 + 48 + 120 + 32 + 8
    assert memory.layer_bytes_per_token(SMALL) == kept
    tokens = 2 * (10 + 3 * 6)
    extra = 2 * 28**2 * 3 + 2 * 18 * 50 * (2 + 12)
    assert memory.activation_bytes(SMALL, LENGTHS, 4, checkpointing=False) == tokens * (2 * kept + 16) + extra
    assert memory.activation_bytes(SMALL, LENGTHS, 4, checkpointing=True) == tokens * (2 * 16 + 2 * kept + 16) + extra
    assert memory.layer_bytes_per_token(replace(SMALL, dtype="float32")) == 64 + 96 + 240 + 64 + 16
    # Layers share inputs: of seven, 3 · 8 + 8 + 2 · 8 + 20 units wide, the 2 · 8 + 20 that are not kept already.
    seven = ((8, 8), (8, 4), (8, 4), (8, 8), (8, 20), (8, 20), (20, 8))
    every = replace(SMALL, lora_layers=seven, lora_parameters=SMALL.layers * 2 * sum(i + o for i, o in seven))
    assert memory.layer_bytes_per_token(every) == 64 + 48 + 120 + 2 * 36 + 2 * 2 * 7


def test_a_piece_of_a_group_has_a_prompt_of_its_own():
    assert LENGTHS.scored(3, SMALL) == (1, 10 + 3 * 6)
    assert LENGTHS.scored(2, SMALL) == (1, 10 + 2 * 6), "pieces of 2 and 1"
    assert LENGTHS.scored(1, SMALL) == (1, 10 + 6)
    # 9 with at most 8 at once are 5 and 4, and two pieces of 4 go together.
    assert Lengths(10, 6, 9).scored(8, SMALL) == (2, 10 + 5 * 6)
    assert Lengths(10, 6, 9).scored(8, replace(SMALL, unpacked="so"))[1] == 10 + 6


@pytest.mark.parametrize(("micro", "copies"), [(64, 1), (4, 1), (2, 2), (1, 4)])
def test_small_micro_batches_run_the_prompt_more_often(micro, copies):
    whole, split = plan_of(SMALL)["work"], plan_of(SMALL, micro_batch_size=micro)["work"]
    for phase in ("scoring", "update"):
        assert split[phase]["sequences"] == copies * whole[phase]["sequences"]
        assert split[phase]["new_tokens"] == whole[phase]["new_tokens"]
        assert (split[phase]["tokens"] - split[phase]["new_tokens"]) == pytest.approx(
            copies * (whole[phase]["tokens"] - whole[phase]["new_tokens"]), abs=copies
        )
    assert split["round sampling"] == whole["round sampling"]


@pytest.mark.parametrize(("learns", "least"), [(None, "learning from one response"), (1, "drawing one prompt's")])
def test_a_card_that_is_too_small_for_anything_says_for_what(monkeypatch, learns, least):
    card = Card(name="Small", memory_gib=1, bfloat16_tflops=1, float32_tflops=1)
    monkeypatch.setattr(memory, "largest_micro_batch", lambda *_: learns)
    monkeypatch.setattr(memory, "largest_sampling_batch", lambda *_: None)
    (planned,) = plan_of(SMALL, card)["cards"]
    assert f"is too small for {least}" in planned["fault"]


def test_a_deep_model_is_smaller_with_checkpointing():
    deep = replace(SMALL, layers=32)
    whole, again = (memory.activation_bytes(deep, LENGTHS, 3, checkpointing) for checkpointing in (False, True))
    assert again < whole / 3


def test_a_long_response_counts_its_chunk_of_logits_only():
    long = Lengths(10, 2000, 1)
    wide = replace(SMALL, vocabulary=100_000)
    narrow = replace(SMALL, vocabulary=0)
    difference = memory.activation_bytes(wide, long, 1, False) - memory.activation_bytes(narrow, long, 1, False)
    assert difference == 1024 * 100_000 * 14


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    at = {n: memory.activation_bytes(SMALL, LENGTHS, n, False) for n in (1, 3, 4, 6, 12)}
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[12], False) == 12
    # 12 / 6: the next smaller divisor.
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[12] - 1, False) == 6
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[6] - 1, False) == 3
    # Less than a group is a piece of it.
    assert at[1] < memory.activation_bytes(SMALL, LENGTHS, 2, False) < at[3]
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[3] - 1, False) == 2
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[1], False) == 1
    assert memory.largest_micro_batch(SMALL, LENGTHS, 12, at[1] - 1, False) is None


def test_the_largest_sampling_batch_is_of_whole_prompts():
    limit = memory.sampling_bytes(SMALL, LENGTHS, 6)
    assert memory.largest_sampling_batch(SMALL, LENGTHS, 100, limit) == 6
    assert memory.largest_sampling_batch(SMALL, LENGTHS, 7, 10 * limit) == 6
    assert memory.largest_sampling_batch(SMALL, LENGTHS, 100, limit - 1) == 3
    assert memory.largest_sampling_batch(SMALL, LENGTHS, 100, 1) is None


def test_features_stop_at_the_limit():
    assert memory.feature_bytes(SMALL, 5, 3, 10**9) == 3 * 5 * 8 * 2
    assert memory.feature_bytes(SMALL, 5, 10**9, 1000) == 1000


# --- work ----------------------------------------------------------------------------------------------------------


def test_flops_by_hand():
    # 2 · 700 + 4 · 2 · 8 · 30 of 11 tokens, and the output layer for 4 of them.
    assert work.forward_flops(SMALL, 11, 30, 4) == 11 * (1400 + 1920) + 2 * 100 * 4
    assert work.update_flops(SMALL, 11, 30, 4, checkpointing=False) == 2 * work.forward_flops(SMALL, 11, 30, 4)
    assert work.update_flops(SMALL, 11, 30, 4, checkpointing=True) == 3 * work.forward_flops(SMALL, 11, 30, 4)
    tied = replace(SMALL, head_parameters=0)
    assert work.forward_flops(tied, 0, 0, 1) == 2 * 50 * 8, "a shared output layer is computed all the same"


def test_hours_by_hand():
    found = {"a": work.Phase("update", 1, 1, 1, flops=3600e12), "b": work.Phase("sampling", 1, 1, 1, flops=3600e12)}
    card = Card(name="x", memory_gib=1, bfloat16_tflops=10, float32_tflops=2)
    share = Utilisation(sampling=0.1, scoring=1, update=0.5)
    assert work.hours(found, card, "bfloat16", share) == {"a": pytest.approx(0.2), "b": pytest.approx(1.0)}
    assert work.hours(found, card, "float32", share) == {"a": pytest.approx(1.0), "b": pytest.approx(5.0)}


def test_the_shapes_are_plain_data():
    assert json.dumps(VerifierShape("CLIP", "float32", 3).parameters) == "3"


# --- a sampling engine on the same card ----------------------------------------------------------------------------

CARD = Card(name="X", memory_gib=80, bfloat16_tflops=100, float32_tflops=10)
PLAN = PlanParams(
    cards=(CARD,),
    utilisation=Utilisation(sampling=0.1, scoring=1, update=0.5),
    prompt_tokens=60,
    image_tokens=None,
    response_share=0.7,
    reserve_gib=2,
)
# 14 GiB of weights in bfloat16, 0.5 MiB of cache a token.
LARGE = replace(SMALL, parameters=7 * GIB, layers=32, key_width=4096, query_width=4096, hidden=4096, image_tokens=580)


def planned(policy=LARGE, **sampling):
    sampling = SAMPLING.model_copy(update={"max_new_tokens": 384, "batch_size": 64, **sampling})
    return Run(policy, None, {}, sampling, settings(), EVALUATION, checkpointing=True, feature_cache_bytes=0)


def on_card(run: Run, found: Card | None = CARD) -> dict:
    return plan_run(run, PLAN, found)["cards"][0]


def test_an_engines_share_is_not_there_for_the_trainer():
    itself, beside = planned(), planned(sampler="vllm", engine_memory=0.45)
    fixed = sum(fixed_bytes(itself, PLAN).values())
    assert on_card(itself)["free_bytes"] == 78 * GIB - fixed and on_card(itself)["engine_bytes"] == 0
    assert on_card(beside)["free_bytes"] == (80 * 0.55 - 2) * GIB - fixed
    assert on_card(beside)["engine_bytes"] == 36 * GIB
    assert on_card(planned(engine_memory=0.9)) == on_card(itself), "what samples in process has no engine"
    assert on_card(beside)["fault"] is None


def test_an_engine_draws_any_batch_where_its_share_holds_its_weights_and_a_sequence():
    """14 GiB, and 1023 positions of 0.5 MiB: 14.4995 GiB, 0.18124 of the card."""
    fits, small = (planned(sampler="vllm", engine_memory=share, batch_size=4000) for share in (0.1813, 0.1812))
    assert on_card(planned(batch_size=4000))["largest_sampling_batch"] < 4000
    assert on_card(fits)["largest_sampling_batch"] == 4000
    assert on_card(small)["largest_sampling_batch"] is None
    assert "14.5 (response_sampling.engine_memory 0.1812)" in on_card(small)["fault"]
    assert "It fits with: options: {gradient" not in on_card(small)["fault"], "it is on"
    assert "It fits with: response_sampling.sampler: in_process" in on_card(small)["fault"]


def test_where_the_trainer_has_too_little_left_the_engine_is_named():
    fault = on_card(planned(sampler="vllm", engine_memory=0.8))["fault"]
    assert "and the vLLM engine 64.0 (response_sampling.engine_memory 0.8)" in fault
    assert fault.endswith("It fits with: response_sampling.sampler: in_process")
    assert "vLLM" not in (on_card(planned(replace(LARGE, parameters=60 * GIB)))["fault"])


def test_the_plan_for_reading_says_that_an_engine_draws():
    itself, beside = (plan_run(run, PLAN, None) for run in (planned(), planned(sampler="vllm")))
    assert "A vLLM engine has its share" in format_plan(beside) and "key-value cache" not in format_plan(beside)
    assert "vLLM" not in format_plan(itself) and "key-value cache" in format_plan(itself)
