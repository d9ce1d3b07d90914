"""The measurement at tiny size on the CPU, so that it works; and of LLaVA-1.5-7B's size where there is a GPU."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from tests.bench import plain
from tests.gpu import measuring
from tests.gpu.bench import CONFIGS, WORDS, target, tiny
from tests.gpu.measuring import Round, measure, wrong
from tests.gpu.throughput import main, run
from tests.gpu.work import PHASES

# Weights and adapter, their moments, and the rest at the smallest micro-batch: less than this runs out of memory.
NEEDED_GIB = 70


@pytest.fixture(scope="module")
def measured():
    said: list[str] = []
    return measure(tiny(), "cpu", said.append), said


def test_it_measures(measured):
    found, said = measured
    assert found.faults == []
    assert tuple(found.phases) == PHASES
    assert found.phases["sampling"].work.amount == 4 * 2 * 6
    for name, phase in found.phases.items():
        assert phase.peak_bytes is None, "a GPU's"
        assert phase.utilisation(1e9) == pytest.approx(phase.work.parameter_flops / phase.seconds / 1e9)
        assert sum(line.startswith(f"{name}: ") for line in said) == 1
    assert found.step["updates"] == 1
    assert found.micro_batch == 4
    assert all("float32 on cpu" in words for words in found.runs_on.values())
    for kernels in found.kernels.values():
        assert kernels.seconds > 0 and 0 <= kernels.idle_share < 1
    one, all_, trl = found.peers
    assert min(one.ours, one.theirs, all_.theirs) > 0 and one.ours == all_.ours
    assert trl.theirs is None and "make bench" in trl.missing


def test_a_peer_that_cannot_be_run_has_a_row_that_says_why(monkeypatch):
    def fail(*arguments):
        raise torch.OutOfMemoryError("no room\nat all")

    monkeypatch.setattr(plain, "generate", fail)
    page, figures, found = run(tiny(), "cpu", "a command", lambda line: None)
    assert found.faults == [], "another's failure is none of ours"
    assert page.count("not run: OutOfMemoryError: no room |") == 2
    assert [peer["theirs"] for peer in figures["peers"]] == [None] * 3


def test_what_the_verifier_says_of_a_picture_is_what_its_tokens_earn():
    round_ = Round(tiny(), "cpu")
    responses = round_.sample(round_.prompts, 6)
    rewards = round_.score(responses).rollouts.token_rewards
    for row, image_id, tokens in zip(rewards, responses["image_id"], responses["token_ids"], strict=True):
        assert row.tolist() == pytest.approx([round_.worth[image_id][token % len(WORDS)] for token in tokens], rel=1e-6)
    assert len({tuple(worth) for worth in round_.worth.values()}) == len(round_.prompts)


def test_it_measures_in_bfloat16_and_with_checkpointing():
    found = measure(tiny(dtype="bfloat16", checkpointing=True, prompts=2), "cpu", lambda line: None)
    assert found.faults == []
    assert all("in bfloat16" in words and "on cpu" in words for words in found.runs_on.values())


def test_a_type_that_did_not_run_is_found(monkeypatch):
    """Weights of one type where another was asked for."""
    made = measuring.Round.__init__

    def in_float32(self, bench, device):
        made(self, replace(bench, dtype="float32"), device)

    monkeypatch.setattr(measuring.Round, "__init__", in_float32)
    found = measure(tiny(dtype="bfloat16", prompts=1, new_tokens=2), "cpu", lambda line: None)
    assert found.faults == ["computed in ['torch.float32'], not in bfloat16 alone"]


def test_no_response_ends_by_chance():
    """Among so many tokens were some end tokens, in all but one of 9,000 tries, were those as likely as the others."""
    bench = tiny(prompts=4, responses=8, new_tokens=120, sampling_batch=32)
    round_ = measuring.Round(bench, "cpu")
    responses = round_.sample(round_.prompts, bench.new_tokens)
    assert responses["token_ids"].str.len().tolist() == [120] * 32
    assert set(responses["finish_reason"]) == {"length"}
    drawn = {token for row in responses["token_ids"] for token in row}
    assert max(drawn) < len(round_.policy.tokenizer) < bench.text.vocab_size
    assert len(drawn) > 300, "and all others are still drawn"


def test_what_is_wrong_is_found(measured):
    bench = tiny(prompts=1)
    round_ = measuring.Round(bench, "cpu")
    state = {"annotation": round_.annotate(), "sampling": round_.sample(round_.prompts, bench.new_tokens)}
    state["update"] = round_.update(round_.score(state["sampling"]))
    assert wrong(bench, state) == []
    short = state["sampling"].assign(token_ids=[[5], [5, 6]])
    assert wrong(bench, {**state, "sampling": short})[0].startswith("2 responses of [1, 2] tokens and not 2 of 6")
    lost = wrong(bench, {**state, "update": {**state["update"], "policy_loss": float("nan"), "updates": 2}})
    assert lost == ["policy_loss of the update is nan", "2 optimiser steps and not 1"]
    assert wrong(bench, {**state, "annotation": torch.tensor([1.0, float("inf")])})


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), TypeError("no such option")])
def test_what_fails_keeps_what_was_measured_before(monkeypatch, error):
    def fail(self, responses):
        if len(responses) > 2:
            raise error
        return score(self, responses)

    score = measuring.Round.score
    monkeypatch.setattr(measuring.Round, "score", fail)
    told: list[str] = []
    page, figures, found = run(tiny(), "cpu", "a command", told.append)
    said = f"{type(error).__name__}: {error}"
    assert found.faults == [said]
    assert "Traceback" in told[-1]
    assert list(figures["phases"]) == ["annotation", "sampling"]
    assert f"**Wrong:** {said}" in page
    assert "| MFU of the update, first target | ≥ 40% | not measured | **no** |" in page


def test_the_command_writes_markdown_and_json(tmp_path):
    output = tmp_path / "new" / "gpu.md"
    done = CliRunner().invoke(main, ["--config", "tiny", "--device", "cpu", "--output", str(output)])
    assert done.exit_code == 0, done.output
    text = output.read_text(encoding="utf-8")
    for heading in ("Targets", "Phases", "Memory", "Peers", "Kernels: sampling", "Kernels: update"):
        assert f"### {heading}\n" in text
    figures = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["met"] for row in figures["targets"]] == [False, False, False, False, True, False]
    assert len(figures["kernels"]["update"]["top"]) == 10
    assert figures["faults"] == []
    assert f"commit `{figures['commit']}`, {figures['date']}" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_command_says_what_to_do(tmp_path):
    done = CliRunner().invoke(main, ["--output", str(tmp_path / "gpu.md")])
    assert done.exit_code == 1
    assert "no CUDA device here" in done.output and "--config tiny --device cpu" in done.output


@pytest.mark.gpu
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("config", ["quick", target.__name__])
def test_llava_15_7b_on_this_gpu(config, capsys):
    """Fails where something is wrong; what is slower or larger than it should be is printed."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")

    has = torch.cuda.get_device_properties(0).total_memory / 2**30
    if has < NEEDED_GIB:
        pytest.skip(f"needs {NEEDED_GIB} GiB, this GPU has {has:.0f}")
    bench = CONFIGS[config]()
    page, _, found = run(bench, "cuda", f"pytest -m gpu ({config})", say)
    say(page)
    assert found.faults == []
    assert all("in bfloat16" in words and "on cuda" in words for words in found.runs_on.values())
    for name in PHASES:
        assert found.phases[name].peak_bytes > 0
