"""bfloat16 against float32 on the CPU, once on the CPU in every run of the tests and once where there is a GPU."""

import logging
from pathlib import Path

import pytest
import torch
from tests.gpu.dtypes import output_types
from tests.pocket_models import LORA, PocketWorld, stir
from tests.training.test_out_of_memory import TEMPERATURE, roll_out
from tests.training.test_ppo import params
from torch import Tensor

from fisao_pipeline.method.calibration import auroc
from fisao_pipeline.models.cuda_graph import CudaGraph
from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.halving import HalvingSize
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.source import ModelSource
from fisao_pipeline.models.steps import plain_reason, plain_steps
from fisao_pipeline.models.verifier import load_verifier
from fisao_pipeline.pocket.scenes import CATEGORIES
from fisao_pipeline.runs.determinism import deterministic_algorithms
from fisao_pipeline.training.learning import adapter_optimizer
from fisao_pipeline.training.ppo import ppo_round, score_rollouts

SHIPPED = Path(__file__).parents[2] / "data" / "06_models"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.fixture(scope="module")
def shipped() -> PocketWorld:
    return PocketWorld.make(SHIPPED, 12)


def source(name: str, dtype: str, device: str) -> ModelSource:
    return ModelSource(str(SHIPPED / name), dtype=dtype, device=device)


def policy_on(device: str, dtype: str) -> Policy:
    torch.manual_seed(0)
    return stir(Policy.load(source("pocket_vlm", dtype, device), lora=LORA), scale=0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_the_policys_logprobs_are_those_of_float32(shipped, device):
    fine, coarse = policy_on("cpu", "float32"), policy_on(device, "bfloat16")
    batch = shipped.batch(fine, 8)
    torch.manual_seed(1)
    drawn = fine.sample(batch, Decoding(1.0, 24), 2)
    rows = [row for row in range(8) for _ in range(2)]
    with torch.no_grad():
        wanted, _ = fine.score(batch, drawn.ids, drawn.mask, 1.0, prompt_of_row=rows)
        ids, mask = drawn.ids.to(device), drawn.mask.to(device)
        with output_types(coarse) as seen:
            found, _ = coarse.score(shipped.batch(coarse, 8), ids, mask, 1.0, prompt_of_row=rows)
    assert seen == {torch.bfloat16}, "what was asked for is what ran"
    assert {f.dtype for f in shipped.batch(coarse, 1).image_features} == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert coarse.backbone.config.get_text_config()._attn_implementation == "sdpa"
    gap = (found.cpu() - wanted)[drawn.mask].abs()
    assert gap.mean() < 0.05
    assert gap.quantile(0.95) < 0.25
    assert gap.max() > 0, "bfloat16 that computes as float32 does is none"


@pytest.fixture
def replays(monkeypatch) -> list[CudaGraph]:
    """Every replay of a graph."""
    seen, replay = [], CudaGraph.replay
    monkeypatch.setattr(CudaGraph, "replay", lambda self: (seen.append(self), replay(self))[1])
    return seen


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recorded_steps_draw_what_plain_ones_draw(shipped, replays, dtype):
    policy = policy_on("cuda", dtype)
    batch = shipped.batch(policy, 8)

    def draw(temperature: float = 1.0):
        torch.manual_seed(1)
        return policy.sample(batch, Decoding(temperature, 48), 4)

    for _ in range(3):  # compared with plain steps at first, and later not
        with plain_steps():
            expected, certain = draw(), draw(0.0)
        assert not replays
        found, sure = draw(), draw(0.0)
        assert plain_reason(policy.backbone) is None and len(set(replays)) > 1
        replays.clear()
        with torch.no_grad():
            rows = [row for row in range(8) for _ in range(4)]
            scored, _ = policy.score(batch, found.ids, found.mask, 1.0, prompt_of_row=rows)
        gap = (scored - found.logprobs)[found.mask].abs()
        if dtype == "float32":
            assert torch.equal(found.ids, expected.ids) and torch.equal(sure.ids, certain.ids)
            assert gap.max() < 1e-3
        else:  # rounded otherwise, as more places are added up
            assert gap.mean() < 0.05


@pytest.mark.gpu
@needs_gpu
def test_recorded_steps_do_not_keep_more_memory_with_every_batch(shipped, replays):
    policy = policy_on("cuda", "bfloat16")
    batch, kept = shipped.batch(policy, 8), []
    for _ in range(8):
        torch.manual_seed(1)
        policy.sample(batch, Decoding(1.0, 48), 4)
        kept.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert replays
    for allocated, reserved in kept[3:]:
        assert allocated <= kept[2][0] + (1 << 20) and reserved <= kept[2][1] + (1 << 20), kept


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("looked_out_for", [True, False])
def test_a_step_that_waits_is_refused_and_nothing_else_changes(shipped, replays, monkeypatch, looked_out_for):
    if not looked_out_for:  # then CUDA breaks the recording off
        monkeypatch.setattr(CudaGraph, "run", lambda self, compute: compute())
    policy = policy_on("cuda", "float32")
    batch, step = shipped.batch(policy, 8), policy.kind.step

    def asking(tokens, mask, cache, positions):
        assert int(tokens.max()) >= 0
        return step(tokens, mask, cache, positions)

    def draw():
        torch.manual_seed(1)
        return policy.sample(batch, Decoding(1.0, 48), 4)

    with plain_steps():
        expected = draw()
    monkeypatch.setattr(policy.kind, "step", asking)
    for _ in range(2):  # random numbers can still be drawn
        assert torch.equal(draw().ids, expected.ids)
    assert not replays and ("synchronizing" if looked_out_for else "captur") in plain_reason(policy.backbone)
    # The allocator gives back what it keeps, and so thinks that nothing is recorded.
    spare = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    before = torch.cuda.memory_reserved()
    del spare
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before - (64 << 20)
    other = policy_on("cuda", "bfloat16")
    other.sample(shipped.batch(other, 8), Decoding(1.0, 48), 4)
    assert replays and plain_reason(other.backbone) is None


@pytest.mark.parametrize("device", DEVICES)
def test_the_verifiers_scores_are_those_of_float32(shipped, device):
    there = dict(zip(shipped.manifest["image_id"], shipped.manifest["objects"], strict=True))
    pairs = [(image, name) for image in there for name in CATEGORIES]
    present = torch.tensor([name in there[image] for image, name in pairs])
    images, texts = [image for image, _ in pairs], [f"a photo of a {name}" for _, name in pairs]
    fine = load_verifier(source("pocket_verifier", "float32", "cpu"))
    coarse = load_verifier(source("pocket_verifier", "bfloat16", device))
    embedded: list[Tensor] = []
    whole = coarse._image_embeddings
    coarse._image_embeddings = lambda inputs: (embedded.append(whole(inputs)), embedded[-1])[1]
    wanted, found = (verifier.score(images, texts, shipped.open_image) for verifier in (fine, coarse))
    assert {(e.dtype, e.device.type) for e in embedded} == {(torch.bfloat16, device)}
    assert found.dtype == torch.float32 and found.device.type == "cpu"
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)
    before, after = (auroc(scores[present], scores[~present]) for scores in (wanted, found))
    assert abs(before - after) < 0.01


def ppo_weights(shipped: PocketWorld, device: str, dtype: str) -> tuple[dict[str, float], list[Tensor]]:
    policy = policy_on(device, dtype)
    policy.add_value_head()
    assert {p.dtype for p in policy.trainable_parameters()} == {torch.float32}
    assert {p.device.type for p in policy.trainable_parameters()} == {device}
    settings = params(micro_batch_size=4, advantage="gae", logprob_tolerance=0.2, epochs=2)
    optimizer = adapter_optimizer(policy, settings)
    assert optimizer.defaults["fused"] is (True if device == "cuda" else None)
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    rollouts = roll_out(shipped, policy)
    scored = score_rollouts(policy, rollouts, shipped.open_image, TEMPERATURE, settings, 0.1)
    step = ppo_round(policy, optimizer, scored, shipped.open_image, TEMPERATURE, settings, seed=0)
    after = [p.detach() for p in policy.trainable_parameters()]
    assert all(torch.isfinite(p).all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return step, after


@pytest.mark.parametrize("device", DEVICES)
def test_a_round_in_bfloat16_repeats_bit_by_bit_where_that_is_asked_for(shipped, device, monkeypatch):
    if device == "cuda":
        # Set before cuBLAS is first used where this is run alone; `make test-gpu` sets it for all.
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with deterministic_algorithms():
        first, second = (ppo_weights(shipped, device, "bfloat16") for _ in range(2))
    assert first[0] == second[0]
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


@pytest.mark.gpu
@needs_gpu
def test_pictures_read_by_threads_give_the_same_scores(shipped):
    images = shipped.prompts["image_id"].tolist()
    texts = ["a photo of a dog"] * len(images)
    scores = []
    for threads in (0, 4):
        verifier = load_verifier(source("pocket_verifier", "float32", "cuda"))
        assert verifier.threads > 0
        verifier.threads = threads
        scores.append(verifier.score(images, texts, shipped.open_image))
    torch.testing.assert_close(*scores, atol=1e-6, rtol=0)


@pytest.fixture
def limited():
    """Gives this process no more GPU memory than it has now and so many bytes; all of it again afterwards."""

    def limit(more_bytes: int) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_bytes) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@needs_gpu
def test_memory_that_really_runs_out_halves(limited, caplog):
    limited(1 << 30)
    sizes = []

    def attempt(size: int) -> int:
        sizes.append(size)
        torch.empty(size << 28, dtype=torch.uint8, device="cuda")
        return size

    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        assert HalvingSize(16, "x.size", "", "").run(attempt) == sizes[-1]
    assert sizes in ([16, 8, 4], [16, 8, 4, 2]), "allocators round up"
    assert "Out of GPU memory with x.size 16: going on with 8" in caplog.text


@pytest.mark.gpu
@needs_gpu
def test_the_verifier_goes_on_in_halves_with_the_same_scores(shipped, limited):
    """Its pictures many times over, so that a batch needs memory; then half of that."""
    names = {f"{number}": f"i{number % 12:02d}" for number in range(2048)}
    texts = ["a photo of a dog"] * len(names)

    def scores(before=lambda: None):
        verifier = load_verifier(source("pocket_verifier", "float32", "cuda"))
        verifier.batch_size = len(names)
        before()
        found = verifier.score(list(names), texts, lambda name: shipped.open_image(names[name]))
        return found, verifier.batch_size

    torch.cuda.reset_peak_memory_stats()
    used = torch.cuda.memory_allocated()
    wanted, size = scores()
    needed = torch.cuda.max_memory_allocated() - used
    assert size == len(names)
    found, size = scores(lambda: limited(needed // 2))
    assert size < len(names)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
