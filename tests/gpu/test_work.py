"""Work and memory against hand computation, and against what is counted while a small model runs."""

from dataclasses import replace

import pytest
import torch
from tests.bench.counting import counted
from tests.bench.memory import peak_tensor_bytes
from tests.gpu.bench import LORA_TARGETS, PROMPT, target, tiny
from tests.gpu.measuring import Phase, Round
from tests.gpu.work import Work, planned_bytes, sampling_read_bytes, work_of
from transformers import LlamaConfig

from fisao_pipeline.models.shape import VerifierShape
from fisao_pipeline.params.lora import LoraParams
from fisao_pipeline.planning.memory import Lengths


@pytest.fixture(scope="module")
def large():
    return target().shape()


def test_the_targets_work_by_hand(large):
    """Prompts of 600 tokens: 32 · (600 + 4 · 512) in one pack each, 65,536 of them drawn."""
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    head = 32064 * 4096
    work = work_of(target(), large, Lengths(600, 512, 4), vision_parameters=1000)
    assert work["update"].amount == 84_736 and work["scoring"].amount == 2 * 84_736
    assert work["update"].parameter_flops == 4 * (linear * 84_736 + head * 65_536) == 2_229_431_624_007_680
    assert work["scoring"].parameter_flops == work["update"].parameter_flops, "two forward passes; a step is twice one"
    assert work["sampling"].amount == 65_536
    assert work["sampling"].parameter_flops == 2 * (linear * (32 * 600 + 128 * 511) + head * 65_536)
    assert work["annotation"].parameter_flops == 2 * 1000 * 576 * 32
    # The planner's count has the embeddings, another `head`, and attention over 2,648 tokens.
    attention = 4 * 32 * 4096 * 2648
    assert work["update"].flops == 2 * (84_736 * (2 * (linear + head + 65 * 4096) + attention) + 2 * head * 65_536)


def test_mfu_by_hand():
    """2 · 10¹⁵ operations in 5 s at a peak of 10¹⁵ a second."""
    phase = Phase(Work(100, "tokens", 2e15, 3e15), 5.0, None)
    assert phase.utilisation(1e15) == pytest.approx(0.4)
    assert phase.per_second == 20


def test_bytes_that_sampling_reads_by_hand(large):
    """Two batches, each 511 times all weights; each prompt's 600 tokens as often, each response's 1, …, 511 tokens."""
    weights = 2 * (32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32064 * 4096)
    cache = 524_288 * (32 * 511 * 600 + 128 * sum(range(1, 512)))
    assert sampling_read_bytes(target(), large, Lengths(600, 512, 4)) == 2 * 511 * weights + cache
    apart = replace(large, unshared="each has its own")
    more = 524_288 * (128 - 32) * 511 * 600
    assert sampling_read_bytes(target(), apart, Lengths(600, 512, 4)) == 2 * 511 * weights + cache + more


def test_a_steps_operations_are_about_those_that_are_counted():
    """Wide and short, so that what is left out is small: attention, the adapter, the output layer once more."""
    text = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4, vocab_size=600
    )
    bench = tiny(text=text, prompts=2, lora=LoraParams(rank=1, alpha=1, targets=LORA_TARGETS))
    round_ = Round(bench, "cpu")
    scored = round_.score(round_.sample(round_.prompts, bench.new_tokens))
    with counted() as done:
        round_.update(scored)
    length = round_.policy.encode.count_tokens([PROMPT], [(640, 480)])[0]
    work = work_of(bench, bench.shape(), Lengths(length, bench.new_tokens, bench.responses), 0)
    assert work["update"].parameter_flops == pytest.approx(done["flops"], rel=0.1)


def test_planned_memory_is_near_what_is_held():
    text = LlamaConfig(
        hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4, vocab_size=2000
    )
    lora = LoraParams(rank=8, alpha=16, targets=LORA_TARGETS)
    bench = tiny(text=text, prompts=2, new_tokens=16, sampling_batch=4, lora=lora)
    round_ = Round(bench, "cpu")
    scored = round_.score(round_.sample(round_.prompts, bench.new_tokens))
    round_.update(scored)
    policy, verifier, shape = round_.policy, round_.verifier.model, bench.shape()
    moments = [t for state in round_.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    weights = [*policy.model.parameters(), *policy.value_head.parameters(), *verifier.parameters()]
    there = sum(t.nbytes for t in [*weights, *moments])
    gradients = sum(p.grad.nbytes for p in policy.trainable_parameters())
    held = {
        "update": there + peak_tensor_bytes(lambda: round_.update(scored)),
        "sampling": there + gradients + peak_tensor_bytes(lambda: round_.sample(round_.prompts, bench.new_tokens)),
    }
    head = sum(p.numel() for p in policy.value_head.parameters())
    lengths = Lengths(policy.encode.count_tokens([PROMPT], [(640, 480)])[0], bench.new_tokens, bench.responses)
    size = VerifierShape("", "float32", sum(p.numel() for p in verifier.parameters()))
    planned = planned_bytes(bench, shape, size, head, lengths)
    for name, count in held.items():
        assert planned[name] == pytest.approx(count, rel=0.15), name
        assert planned[name] - there > 0.7 * (count - there), "what comes on top of the weights is planned, too"


def test_the_target_is_of_the_size_it_says_and_fits(large):
    bench = target()
    assert large.parameters == 7_063_427_072, "as llava-hf/llava-1.5-7b-hf"
    assert large.image_tokens == 576
    assert (bench.prompts, bench.responses, bench.new_tokens, bench.dtype) == (32, 4, 512, "bfloat16")
    assert bench.ppo.micro_batch_size >= 4 and not bench.checkpointing
    size = VerifierShape("", "bfloat16", sum(p.numel() for p in bench.verifier("meta").model.parameters()))
    planned = planned_bytes(bench, large, size, 2_100_000, Lengths(620, 512, 4))
    assert max(planned.values()) < 60e9
