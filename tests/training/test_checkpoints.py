"""A training that is killed, at whatever moment, ends bit for bit where it would have ended."""

import logging
import math
import os
import random
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError
from safetensors.torch import save_file
from tests.training.test_annotation import PARAMS as ANNOTATION
from tests.training.test_loop import NO_TRUTH, SAMPLING, ToyAnnotator, first_round, settings, toy_policy

from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.tensor_file import TensorFile
from fisao_pipeline.training import shards as shards_module
from fisao_pipeline.training.checkpoints import Checkpoints, Kept, TrainingState
from fisao_pipeline.training.loop import PolicyTrainer, TrainingResult
from fisao_pipeline.training.run import TrainingInputs
from fisao_pipeline.training.shards import Shards, drop

TIMES = ["seconds", "tokens_per_second"]
OPTIONS = {
    "value head, adaptive KL": {"advantage": "gae", "value_width": 8, "kl_target_nats": 1e-3, "gamma": 1.0},
    "critic-free, KL as a loss": {"advantage": "group", "kl_penalty": "loss", "kl_coef": 0.1, "weight_decay": 0.01},
    "rounds that stop early": {"max_round_kl_nats": 2e-3, "epochs": 3, "anneal_to": 0.3},
    "dpo": {"trainer": "dpo", "epochs": 2},
    "rejection sampling": {"trainer": "rejection_sampling"},
}


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def stores(folder: Path) -> tuple[KeyedFolder, KeyedFolder]:
    definition = "fisao_pipeline.datasets.TensorFileDataset"
    checkpoints = KeyedFolder(folder / "checkpoints", ".safetensors", definition)
    return checkpoints, KeyedFolder(folder / "shards", ".parquet", "pandas.ParquetDataset")


def kept_in(folder: Path, run: str = "run", every: int = 2) -> Checkpoints:
    checkpoints, shards = stores(folder)
    return Checkpoints(checkpoints, Shards(shards, run, 16), every)


@pytest.fixture(scope="module")
def first(world):
    return first_round(world, toy_policy(world))


def attempt(world, first, params, checkpoints: Checkpoints | None, calls: int | None = None):
    """Train in what stands for a new process; killed when it logs for the last time of ``calls``."""
    noise = random.Random(None)
    torch.manual_seed(noise.randrange(2**31))
    np.random.seed(noise.randrange(2**31))
    random.seed(noise.randrange(2**31))
    logged: list[tuple[dict, int]] = []

    def log(metrics, step):
        logged.append((metrics, step))
        if len(logged) == calls:
            raise Killed

    sampling = SAMPLING.model_copy(update={"batch_size": 16})
    policy = toy_policy(world, params.seed)
    trainer = PolicyTrainer(policy, ToyAnnotator(world), world.prompts, sampling, params, NO_TRUTH, log, checkpoints)
    return trainer.train(*first), logged


def rows_kept(folder: Path) -> int:
    """Rounds in the newest checkpoint, that of the untrained policy included."""
    checkpoints, _ = stores(folder)
    keys = checkpoints.keys()
    return len(checkpoints.get(keys[-1]).values["state"]["history"]) if keys else 0


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.adapter_config == expected.adapter_config
    assert result.adapter_state.keys() == expected.adapter_state.keys()
    assert all(torch.equal(result.adapter_state[name], value) for name, value in expected.adapter_state.items())
    pd.testing.assert_frame_equal(result.rollouts, expected.rollouts)
    pd.testing.assert_frame_equal(result.history.drop(columns=TIMES), expected.history.drop(columns=TIMES))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_killed_again_and_again_it_ends_where_it_would_have_ended(world, first, tmp_path, options):
    params = settings(rounds=2, **options)
    expected, whole = attempt(world, first, params, None)
    assert expected.history["updates"].sum() >= 4
    kills = 0
    while True:
        try:
            # After the rows that are logged again a few steps, and with them one checkpoint or two.
            result, logged = attempt(world, first, params, kept_in(tmp_path), rows_kept(tmp_path) + 4)
            break
        except Killed:
            kills += 1
    assert kills >= 2
    assert_same(result, expected)
    rows = [(row["round"], step) for row, step in whole if "round" in row]
    assert [(row["round"], step) for row, step in logged if row.get("round", -1) >= 0] == rows, "in its own MLflow run"
    checkpoints, shards = stores(tmp_path)
    assert len(checkpoints.keys()) == 2
    for store in (checkpoints, shards):
        drop(store, lambda: ["run"])
        assert store.keys() == []


def test_rollouts_of_a_round_that_cannot_be_read_are_drawn_again(world, first, tmp_path, monkeypatch, caplog):
    params, get = settings(rounds=2, epochs=1), KeyedFolder.get
    expected, _ = attempt(world, first, params, None)

    def damaged(self, key):
        if re.fullmatch(r"run-\d{4}-[0-9a-f]{16}", key):
            raise DatasetError("no parquet file")
        return get(self, key)

    monkeypatch.setattr(KeyedFolder, "get", damaged)
    result, _ = attempt(world, first, params, kept_in(tmp_path))
    assert_same(result, expected)
    assert caplog.text.count("cannot be read and is answered again: no parquet file") == 1


def test_killed_at_every_write_it_ends_where_it_would_have_ended(world, first, tmp_path, monkeypatch):
    """Before and after the rename that makes a file appear."""
    params = settings(rounds=2, epochs=1)
    expected, _ = attempt(world, first, params, None)
    real, left = os.replace, 0

    def rename(*arguments):
        nonlocal left
        left -= 1
        if left == 0 and random.random() < 0.5:
            raise Killed
        real(*arguments)
        if left == 0:
            raise Killed

    monkeypatch.setattr(os, "replace", rename)
    for writes in range(1, 50):
        left = writes
        try:
            result, _ = attempt(world, first, params, kept_in(tmp_path))
            break
        except Killed:
            continue
    assert writes > 3
    assert_same(result, expected)


@pytest.fixture
def stopped(world, first, tmp_path):
    """A run that was killed in its second round, and what it would have ended in."""
    params = settings(rounds=2)
    with pytest.raises(Killed):
        attempt(world, first, params, kept_in(tmp_path), 15)
    return params, attempt(world, first, params, None)[0]


def test_a_run_says_where_it_goes_on_and_takes_no_step_twice(world, first, tmp_path, stopped, caplog):
    params, expected = stopped
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        result, logged = attempt(world, first, params, kept_in(tmp_path))
    assert (
        "Going on from a checkpoint after 1 of 2 rounds and 4 steps of the next (12 optimiser steps in all)"
        in caplog.text
    )
    assert [step for metrics, step in logged if "step.policy_loss" in metrics] == [13, 14, 15, 16]
    assert_same(result, expected)


def test_another_run_takes_no_checkpoint_up_and_says_that_it_is_there(world, first, tmp_path, stopped, caplog):
    params, expected = stopped
    before = stores(tmp_path)[0].keys()
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        result, logged = attempt(world, first, params, kept_in(tmp_path, "runner"))
    assert "2 checkpoint(s) of runs with other settings, models or data are left alone" in caplog.text
    assert len([metrics for metrics, _ in logged if "step.policy_loss" in metrics]) == 16
    assert_same(result, expected)
    assert set(before) < set(stores(tmp_path)[0].keys())


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(world, first, tmp_path, stopped, caplog):
    params, expected = stopped
    newest = sorted((tmp_path / "checkpoints").glob("*.safetensors"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    result, logged = attempt(world, first, params, kept_in(tmp_path))
    assert f"The checkpoint {newest.stem} cannot be read and is passed over" in caplog.text
    assert next(step for metrics, step in logged if "step.policy_loss" in metrics) == 11
    assert_same(result, expected)


def test_without_its_rollouts_a_checkpoint_is_none(world, first, tmp_path, stopped, caplog):
    params, expected = stopped
    _, shards = stores(tmp_path)
    for key in shards.keys():
        shards.remove(key)
    result, logged = attempt(world, first, params, kept_in(tmp_path))
    assert caplog.text.count("are gone") == 2
    assert len([metrics for metrics, _ in logged if "step.policy_loss" in metrics]) == 16
    assert_same(result, expected)


def test_a_round_that_was_half_sampled_is_not_sampled_again(world, first, tmp_path, monkeypatch):
    """What is kept are parts of 16 responses; the third of the second round is the one that is lost."""
    params = settings(rounds=2, probe_prompts=0)
    expected, _ = attempt(world, first, params, None)
    real, drawn = Policy.sample, []

    def sample(self, batch, *arguments, **options):
        drawn.append(len(batch))
        if len(drawn) == 3:
            raise Killed
        return real(self, batch, *arguments, **options)

    monkeypatch.setattr(Policy, "sample", sample)
    with pytest.raises(Killed):
        attempt(world, first, params, kept_in(tmp_path))
    assert len(stores(tmp_path)[1].keys()) == 2
    result, _ = attempt(world, first, params, kept_in(tmp_path))
    assert len(drawn) == 3 + 1
    assert_same(result, expected)


def test_random_states_come_back(world, tmp_path):
    """Training draws from seeds of its own; what a trainer or a model draws beside them is no other after a restart."""
    checkpoints, policy = kept_in(tmp_path), toy_policy(world)
    checkpoints.save(policy, {}, TrainingState(Kept(-1, 0.0, policy.adapter_state()[1]), []))
    drawn = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1), np.random.randn()
    assert checkpoints.restore(policy, {}) is not None
    again = torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1), np.random.randn()
    assert torch.equal(drawn[0], again[0]) and (drawn[1] == again[1]).all() and drawn[2:] == again[2:]


def test_a_tensor_file_comes_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.rand(3, 4).T, "b": torch.tensor(7), "c": torch.rand(2).to(torch.bfloat16)}
    values = {"x": [0.1 + 0.2, -math.inf, None], "y": {"z": "ä"}}
    TensorFile(tensors, values).write(tmp_path / "file")
    found = TensorFile.read(tmp_path / "file")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.values == values
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="written by something else"):
        TensorFile.read(tmp_path / "other")


def test_weights_of_another_policy_are_refused(world):
    policy = world.policy()
    state = policy.trainable_state()
    policy.add_value_head()
    with pytest.raises(ValueError, match=r"not the weights of this policy.*value_head\.linear"):
        policy.load_trainable_state(state)


def test_every_input_is_part_of_a_runs_name(world, first, monkeypatch):
    responses, rewards = first
    same = TrainingInputs(
        prompts=world.prompts,
        manifest=world.manifest,
        annotated_categories=["dog", "cat"],
        responses=responses,
        token_rewards=rewards,
        baseline={"verifier": "v"},
        backbone=world.policy_source,
        verifier=world.verifier_source,
        sampling=SAMPLING,
        annotation=ANNOTATION,
        params=settings(),
    )
    others = {
        "prompts": world.prompts.assign(prompt="What?"),
        "manifest": world.manifest.assign(sha256="x"),
        "annotated_categories": ["dog"],
        "responses": responses.assign(logprobs=[[-0.1] * len(row) for row in responses["logprobs"]]),
        "token_rewards": rewards.iloc[::-1],
        "baseline": {"verifier": "w"},
        "backbone": replace(world.policy_source, dtype="bfloat16"),
        "verifier": world.policy_source,
        "sampling": SAMPLING.model_copy(update={"seed": 5}),
        "annotation": ANNOTATION.model_copy(update={"repeat_penalty": 0.25}),
        "params": settings(seed=1),
        "code": "0123",
    }
    names = {same.run(), *(replace(same, **{name: value}).run() for name, value in others.items())}
    assert len(names) == 1 + len(others)
    assert others.keys() == {f.name for f in fields(TrainingInputs)}
    kept = {
        "sampling": SAMPLING.model_copy(update={"responses_per_shard": 7}),
        "params": settings().model_copy(update={"checkpoint_every_steps": 3}),
        "annotated_categories": {"cat", "dog"},
    }
    assert {replace(same, **{name: value}).run() for name, value in kept.items()} == {same.run()}
    by_vllm = replace(same, sampling=SAMPLING.model_copy(update={"sampler": "vllm"}))
    known, before = shards_module.library_versions(), (same.run(), by_vllm.run())
    monkeypatch.setattr(shards_module, "library_versions", lambda: {**known, "vllm": "0.29.0"})
    assert same.run() == before[0] and by_vllm.run() != before[1]
