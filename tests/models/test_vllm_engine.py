"""Sampling through vLLM's interface: the policy's own tokens and logprobs, its adapter as it is, no image token."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests import fake_vllm
from tests.pocket_models import favour, stir

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.source import ModelNotFoundError
from fisao_pipeline.models.vllm_engine import VllmEngine, check_engine

DRAWN = Decoding(0.8, 6)


@pytest.fixture
def engine(world, monkeypatch):
    fake_vllm.install(monkeypatch)
    return VllmEngine(world.policy_source, 0.4, 4, 192)


def sample(world, policy, prompts=3, copies=2, seed=1, decoding=DRAWN, reference=False):
    part = world.prompts.head(prompts)
    asked = (part["prompt"].tolist(), part["image_id"].tolist(), world.open_image)
    return policy.sample_prompts(*asked, decoding, copies, seed, reference)


def with_engine(policy, engine):
    policy.engine = engine
    return policy


@torch.no_grad()
def scored(world, policy, drawn, prompts, copies, **options):
    owners = [row // copies for row in range(prompts * copies)]
    return policy.score(world.batch(policy, prompts), drawn.ids, drawn.mask, 0.8, prompt_of_row=owners, **options)[0]


def test_tokens_and_logprobs_are_the_policys_with_its_adapter_as_it_is_now(world, engine):
    policy = with_engine(stir(world.policy()), engine)
    first = sample(world, policy)
    assert first.ids.shape[0] == 6 and not policy.samples_itself
    torch.testing.assert_close(first.logprobs, scored(world, policy, first, 3, 2), atol=1e-5, rtol=0)
    sample(world, policy, seed=2)
    assert len(engine._llm.adapters_read) == 1, "an adapter that has not moved is not written again"
    stir(policy, scale=0.5, seed=9)
    later = sample(world, policy)
    torch.testing.assert_close(later.logprobs, scored(world, policy, later, 3, 2), atol=1e-5, rtol=0)
    assert not torch.allclose(scored(world, policy, first, 3, 2), first.logprobs, atol=1e-2)
    assert len(engine._llm.adapters_read) == 2
    assert [str(folder) for folder in Path(engine._folder.name).iterdir()] == engine._llm.adapters_read[1:]
    engine.close()
    assert not Path(engine._folder.name).exists()


def test_the_reference_is_drawn_without_the_adapter(world, engine):
    policy = with_engine(stir(world.policy(), scale=0.5), engine)
    drawn = sample(world, policy, reference=True)
    assert not engine._llm.adapters_read
    torch.testing.assert_close(drawn.logprobs, scored(world, policy, drawn, 3, 2, reference=True), atol=1e-5, rtol=0)


def test_greedy_answers_are_those_of_the_process(world, engine):
    greedy = Decoding(0.0, 6)
    own = sample(world, stir(world.policy()), copies=1, decoding=greedy)
    theirs = sample(world, with_engine(stir(world.policy()), engine), copies=1, decoding=greedy)
    assert torch.equal(own.ids, theirs.ids) and torch.equal(own.mask, theirs.mask)
    torch.testing.assert_close(own.logprobs, theirs.logprobs, atol=1e-5, rtol=0)


def test_a_seed_draws_the_same_again_and_no_two_rows_alike(world, engine):
    policy = with_engine(world.policy(lora=None), engine)
    hot = Decoding(2.0, 8)
    part = world.prompts.iloc[[0, 0, 0]]
    asked = (part["prompt"].tolist(), part["image_id"].tolist(), world.open_image)
    first, again, other = (policy.sample_prompts(*asked, hot, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.ids, again.ids)
    rows = [tuple(row) for table in (first, other) for row in table.ids.tolist()]
    assert len(set(rows)) == len(rows)


def test_a_token_that_stands_for_an_image_is_never_drawn(world, monkeypatch):
    fake_vllm.install(monkeypatch)
    engine = VllmEngine(world.policy_source, 0.4, None, 192)
    image = engine._llm.image_token
    policy = with_engine(world.policy(lora=None), engine)
    favour(SimpleNamespace(backbone=engine._llm.model), image, 60.0)
    drawn = sample(world, policy)
    assert not (drawn.ids == image).any()
    wrong = fake_vllm.CompletionOutput(0, "", [image], None, [{image: fake_vllm.Logprob(0.0)}], "length")
    monkeypatch.setattr(engine._llm, "_draw", lambda *args: wrong)
    with pytest.raises(ValueError, match=r"stands for an image.*in_process"):
        sample(world, policy)


def test_it_is_started_for_one_image_the_adapters_rank_and_no_remote_code(world, monkeypatch):
    llm = fake_vllm.install(monkeypatch)
    source = replace(world.policy_source, options={"processor": {"max_pixels": 501760}})
    VllmEngine(source, 0.3, 9, 128)
    expected = {
        "model": world.policy_source.path_or_id,
        "revision": None,
        "dtype": "float32",
        "trust_remote_code": False,
        "gpu_memory_utilization": 0.3,
        "max_model_len": 128,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_kwargs": {"max_pixels": 501760},
        "enable_lora": True,
        "max_lora_rank": 16,
    }
    assert expected.items() <= llm.started.items()


def test_without_vllm_the_remedy_is_said(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"pip install 'fisao-pipeline\[vllm\]'.*in_process"):
        VllmEngine(world.policy_source, 0.4, None, 192)


def test_it_reads_the_folder_on_this_machine_and_asks_no_hub(world, monkeypatch, tmp_path):
    llm = fake_vllm.install(monkeypatch)
    monkeypatch.setenv("HOME", str(world.models))
    VllmEngine(replace(world.policy_source, path_or_id="~/pocket_vlm"), 0.4, None, 192)
    assert llm.started["model"] == world.policy_source.path_or_id
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--some--policy" / "snapshots" / "abc"
    shutil.copytree(world.models / "pocket_vlm", snapshot)
    cached = replace(world.policy_source, path_or_id="some/policy", revision="abc", allow_download=True)
    VllmEngine(cached, 0.4, None, 192)
    assert llm.started["model"] == str(snapshot) and llm.started["revision"] is None
    with pytest.raises(ModelNotFoundError, match="hf download some/other"):
        VllmEngine(replace(cached, path_or_id="some/other"), 0.4, None, 192)


def test_what_vllm_refuses_is_said_with_the_remedy(world, monkeypatch):
    fake_vllm.install(monkeypatch)
    with pytest.raises(ValueError, match=r"vLLM cannot run '.*pocket_vlm' with an adapter: Free memory.*engine_memory"):
        VllmEngine(world.policy_source, 0.95, 4, 192)
    with pytest.raises(ValueError, match=r"up to rank 512, lora.rank is 600"):
        VllmEngine(world.policy_source, 0.4, 600, 192)


@pytest.mark.parametrize(("decoding", "copies"), [(Decoding(0.0, 4, num_beams=2), 1), (Decoding(0.0, 4), 2)])
def test_beams_and_copies_of_greedy_answers_are_refused(world, engine, decoding, copies):
    with pytest.raises(ValueError, match=r"no beam search and no copies.*in_process"):
        sample(world, with_engine(world.policy(), engine), copies=copies, decoding=decoding)


def test_a_prompt_that_it_reads_otherwise_is_refused(world, engine, monkeypatch):
    drawn = fake_vllm.CompletionOutput(0, "", [400], None, [{400: fake_vllm.Logprob(0.0)}], "length")
    monkeypatch.setattr(engine._llm, "_repeated", lambda ids: ids)
    monkeypatch.setattr(engine._llm, "_draw", lambda *args: drawn)
    with pytest.raises(ValueError, match="reads the prompt about 'i00' as"):
        sample(world, with_engine(world.policy(), engine))


def test_an_end_that_is_left_out_is_refused(world, engine, monkeypatch):
    cut = fake_vllm.CompletionOutput(0, "", [400], None, [{400: fake_vllm.Logprob(0.0)}], "stop")
    monkeypatch.setattr(engine._llm, "_draw", lambda *args: cut)
    with pytest.raises(ValueError, match="leaves out the token that ended"):
        sample(world, with_engine(world.policy(), engine))


def on_a_card(policy, model_type="llava", dtype=torch.bfloat16):
    backbone = SimpleNamespace(config=SimpleNamespace(model_type=model_type), dtype=dtype)
    card = torch.device("cuda")
    return SimpleNamespace(device=card, backbone=backbone, adapter_parameters=policy.adapter_parameters)


def test_what_it_cannot_sample_from_is_refused_before_it_starts(world):
    policy, source = world.policy(), world.policy_source
    check_engine(on_a_card(policy), source, 2.0)
    check_engine(on_a_card(world.policy(lora=None), dtype=torch.float32), source, 2.0)
    refused = [
        ((policy, source, 1.0), "needs a CUDA device and the policy is on cpu"),
        ((on_a_card(policy), replace(source, quantization="nf4"), 1.0), "cannot load the policy in nf4"),
        ((on_a_card(policy, "instructblip"), source, 1.0), "the policy is a instructblip"),
        ((on_a_card(policy, dtype=torch.float32), source, 1.0), "in float32: set `dtype: bfloat16` on policy_backbone"),
        ((on_a_card(policy), source, 2.5), "temperatures up to 2, response_sampling.temperature is 2.5"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message + r".*in_process"):
            check_engine(*given)
