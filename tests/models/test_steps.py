"""Steps that are recorded and replayed draw what plain ones draw, or are not recorded and say why."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from tests.backbone_zoo import ZOO, Picture, build
from tests.fake_graph import FakeGraph, HostReads
from tests.pocket_models import LORA, favour, stir

from fisao_pipeline.models import shared_prompts, steps
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.shared_prompts import cache_of_completions, unshared_reason
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.steps import plain_reason, plain_steps


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """This processor records."""
    monkeypatch.setattr(steps, "_graph_after", lambda device: FakeGraph)
    monkeypatch.setattr(steps, "_LAST", {})
    monkeypatch.setattr(shared_prompts, "ROOM", 6)
    monkeypatch.setattr(FakeGraph, "recorded", 0)
    monkeypatch.setattr(FakeGraph, "replayed", 0)


@pytest.fixture
def policy(world):
    """Its completions end early, each at another length: rows and prompts leave on the way."""
    policy = stir(world.policy())
    return favour(policy, policy.tokenizer.eos_token_id, 3.0)


def draw(policy, batch, k=3, tokens=22, temperature=1.0):
    torch.manual_seed(0)
    return policy.sample(batch, Decoding(temperature, tokens), k)


def same(one, other) -> None:
    assert torch.equal(one.ids, other.ids)
    torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)


def plainly(policy, batch, **options):
    with plain_steps():
        return draw(policy, batch, **options)


@pytest.mark.parametrize("k", [1, 3])
def test_the_same_is_drawn(world, policy, k):
    batch = world.batch(policy, 8)
    expected = plainly(policy, batch, k=k)
    assert FakeGraph.recorded == FakeGraph.replayed == 0
    assert len(set(expected.mask.sum(dim=1).tolist())) > 3
    for _ in range(2):
        same(draw(policy, batch, k=k), expected)
    assert plain_reason(policy.backbone) is None
    assert FakeGraph.recorded > 4 and FakeGraph.replayed > 3 * FakeGraph.recorded / 2


def test_prompts_without_padding(world, policy):
    """When there is no room left either, all counts, and transformers makes no mask."""
    batch = world.batch(policy, 1)
    assert batch.attention_mask.all()
    same(draw(policy, batch), plainly(policy, batch))
    assert FakeGraph.replayed and plain_reason(policy.backbone) is None


def test_a_graph_follows_the_last_one_of_any_batch(world, policy, monkeypatch):
    """Whose memory it takes: otherwise every batch would leave some behind."""
    befores, made = [], []

    def graph_after(before):
        befores.append(before)
        made.append(FakeGraph(before))
        return made[-1]

    monkeypatch.setattr(steps, "_graph_after", lambda device: graph_after)
    for _ in range(2):
        draw(policy, world.batch(policy))
    assert len(made) > 4 and befores == [None, *made[:-1]]


def test_what_is_drawn_beyond_what_is_compared_is_the_replays(world, policy, monkeypatch):
    monkeypatch.setattr(steps, "_COMPARED", 0)
    batch = world.batch(policy, 8)
    expected = plainly(policy, batch)
    taken = []
    step = policy.kind.step
    monkeypatch.setattr(policy.kind, "step", lambda *given: taken.append(1) or step(*given))
    drawn = draw(policy, batch)
    same(drawn, expected)
    as_ever = 1  # what the first one in fixed shapes is compared with
    assert len(taken) - as_ever + FakeGraph.replayed == drawn.ids.shape[1] - 1 + FakeGraph.recorded
    assert FakeGraph.replayed > len(taken) - 2 * FakeGraph.recorded


@pytest.mark.parametrize("name", ZOO)
def test_every_kind_draws_the_same(name, tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "_COMPARED", 0)
    torch.manual_seed(0)
    policy = stir(Policy.load(ModelSource(str(build(name, tmp_path)), dtype="float32", device="cpu"), lora=LORA))
    prompts = ["Describe this image.", "What?", "Is there a dog in the picture, or is there none?"]
    batch = policy.encode(prompts, ["square", "wide", "tall"], Picture())
    same(draw(policy, batch, tokens=15), plainly(policy, batch, tokens=15))
    assert plain_reason(policy.backbone) is None
    assert (FakeGraph.replayed == 0) == (unshared_reason(policy.backbone) is not None)


def test_sixteen_bits_draw_the_same(world):
    policy = stir(Policy.load(replace(world.policy_source, dtype="bfloat16"), lora=LORA))
    batch = world.batch(policy, 4)
    expected, drawn = plainly(policy, batch, temperature=0.0), draw(policy, batch, temperature=0.0)
    assert FakeGraph.replayed
    # Rounded otherwise where places that do not count are added up, too.
    assert (drawn.ids == expected.ids).float().mean() > 0.9


@pytest.mark.parametrize("name", ZOO)
def test_sixteen_bits_replay_exactly_what_a_step_computes(name, tmp_path, monkeypatch):
    """Under autocast, whose casts are recorded and whose copies of weights are read."""
    torch.manual_seed(0)
    policy = stir(Policy.load(ModelSource(str(build(name, tmp_path)), dtype="bfloat16", device="cpu"), lora=LORA))
    batch = policy.encode(["Describe this image.", "What?"], ["square", "wide"], Picture())
    gaps, replayed = [], steps.RecordedSteps._replayed

    def noted(self, recording):
        plain = replayed(self, recording)
        gaps.append(float((recording.logits - plain).abs().max()))
        return plain

    monkeypatch.setattr(steps.RecordedSteps, "_replayed", noted)
    for reference in (False, True):
        policy.sample(batch, Decoding(1.0, 8), 3, reference)
    assert plain_reason(policy.backbone) is None and set(gaps) <= {0.0}
    assert (len(gaps) > 0) == (unshared_reason(policy.backbone) is None)


@pytest.mark.parametrize(("name", "reads"), [*((name, False) for name in ZOO), ("llava", True)])
@torch.no_grad()
def test_a_step_reads_no_memory_of_the_host(name, reads, tmp_path, monkeypatch):
    policy = Policy.load(ModelSource(str(build(name, tmp_path)), dtype="float32", device="cpu"), lora=LORA)
    if unshared_reason(policy.backbone) is not None:
        return  # its steps are not recorded
    kind, step = policy.kind, policy.kind.step
    if reads:
        monkeypatch.setattr(
            kind, "step", lambda tokens, *more: step(tokens + torch.tensor([1]).to(tokens.device), *more)
        )
    inputs = kind.inputs(policy.encode(["Describe this image.", "What?"], ["square", "wide"], Picture()))
    _, cache = kind.prefill(inputs)
    positions = kind.next_positions(inputs)
    policy.model.to("meta")
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.to("meta"), layer.values.to("meta")
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *kind: kind != ("meta",) and enabled(*kind))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with cache_of_completions(kind.model, cache, 1) as shared:
        shared.make_room()
        made = steps.RecordedSteps(
            kind,
            shared,
            inputs["attention_mask"].to("meta"),
            None if positions is None else positions.to("meta"),
            FakeGraph,
        )
        recording = made._begin(torch.zeros(2, dtype=torch.long, device="meta"))
        with HostReads() as host:
            made._fixed(recording)
    assert bool(host.names) == reads


def test_what_python_computes_anew_at_each_step_is_noticed(world, policy, monkeypatch, caplog):
    """A model that counts its steps by itself: a recording knows one number only."""
    batch, step, place = world.batch(policy), policy.kind.step, []

    def counting(tokens, mask, cache, positions):
        logits, cache = step(tokens, mask, cache, positions)
        return logits + 1e-3 * place[-1].taken * torch.arange(logits.shape[-1]), cache

    after = steps.Steps.after
    monkeypatch.setattr(policy.kind, "step", counting)
    for owner in (steps.Steps, steps.RecordedSteps):
        after = owner.after
        monkeypatch.setattr(owner, "after", lambda self, *given, after=after: place.append(self) or after(self, *given))
    expected = plainly(policy, batch)
    with caplog.at_level(logging.WARNING):
        same(draw(policy, batch), expected)
        same(draw(policy, batch), expected)
    assert FakeGraph.replayed == 1
    told = [r.message for r in caplog.records]
    assert len(told) == 1 and "not recorded" in told[0] and "logits are off by" in told[0]


@pytest.mark.parametrize(("name", "dtype"), [("llava", "float32"), ("llava", "bfloat16"), ("internvl", "float32")])
def test_a_model_that_reads_a_number_off_the_masks_width_is_not_recorded(name, dtype, tmp_path, monkeypatch, caplog):
    """Recorded and not it computes alike, and wrongly: places that no token has taken yet are counted."""
    torch.manual_seed(0)
    policy = stir(Policy.load(ModelSource(str(build(name, tmp_path)), dtype=dtype, device="cpu"), lora=LORA))
    batch = policy.encode(["Describe this image.", "What?"], ["square", "wide"], Picture())

    def by_width(tokens, mask, cache, positions):
        at = torch.full((len(tokens), 1), mask.shape[1] - 1)
        output = policy.backbone(
            input_ids=tokens[:, None], attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True
        )
        return output.logits[:, -1], output.past_key_values

    monkeypatch.setattr(policy.kind, "step", by_width)
    expected = plainly(policy, batch)
    with caplog.at_level(logging.WARNING):
        same(draw(policy, batch), expected)
    assert FakeGraph.recorded == 0
    assert "in fixed shapes logits are off by" in plain_reason(policy.backbone)


def test_a_model_that_asks_the_device_is_not_recorded(world, policy, monkeypatch, caplog):
    batch, step = world.batch(policy), policy.kind.step

    def asking(tokens, mask, cache, positions):
        assert int(tokens.max()) >= 0
        return step(tokens, mask, cache, positions)

    expected = plainly(policy, batch)
    monkeypatch.setattr(policy.kind, "step", asking)
    with caplog.at_level(logging.WARNING):
        same(draw(policy, batch), expected)
        same(draw(policy, batch), expected)
    assert FakeGraph.recorded == FakeGraph.replayed == 0
    assert [r.message for r in caplog.records] == [
        "Steps of drawing are not recorded as CUDA graphs, and so slower: RuntimeError: aten::_local_scalar_dense: "
        "called a synchronizing CUDA operation"
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_no_graph_follows_one_that_failed(world, policy, monkeypatch, error):
    batch = world.batch(policy)
    draw(policy, batch)
    assert steps._LAST

    def record(self, compute):
        raise error("no")

    monkeypatch.setattr(FakeGraph, "record", record)
    draw(policy, batch)
    assert not steps._LAST


def test_an_error_of_the_model_itself_is_raised(world, policy, monkeypatch):
    def broken(tokens, mask, cache, positions):
        raise ValueError("broken")

    monkeypatch.setattr(policy.kind, "step", broken)
    with pytest.raises(ValueError, match="broken"):
        draw(policy, world.batch(policy))


def test_a_recording_that_runs_out_of_memory_costs_nothing_else(world, policy, monkeypatch, caplog):
    batch = world.batch(policy)
    expected, tried = plainly(policy, batch), []

    def record(self, compute):
        compute()
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakeGraph, "record", record)
    with caplog.at_level(logging.WARNING):
        same(draw(policy, batch), expected)
        assert len(tried) == 2
        same(draw(policy, batch), expected)
    assert len(tried) == 4, "each batch tries anew: the next may be smaller"
    assert not caplog.records and plain_reason(policy.backbone) is None


def test_a_step_that_runs_out_of_memory_is_the_callers_business(world, policy, monkeypatch):
    def run(self, compute):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakeGraph, "run", run)
    with pytest.raises(torch.OutOfMemoryError):
        draw(policy, world.batch(policy))


def test_another_thread_than_the_main_one_does_not_record(world, policy):
    batch = world.batch(policy)
    with ThreadPoolExecutor(1) as pool:
        same(pool.submit(draw, policy, batch).result(), plainly(policy, batch))
    assert FakeGraph.recorded == 0


def test_attention_that_leaves_the_prompts_out_is_noticed(world, policy, monkeypatch):
    step = policy.kind.step

    def sabotaged(tokens, mask, cache, positions):
        policy.backbone.get_decoder().config._attn_implementation = "sdpa"
        return step(tokens, torch.ones_like(mask), cache, positions)

    monkeypatch.setattr(policy.kind, "step", sabotaged)
    with pytest.raises(RuntimeError, match="without the prompts"):
        draw(policy, world.batch(policy))
