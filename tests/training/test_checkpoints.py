"""A training that is killed, at whatever moment, ends bit for bit where it would have ended."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.training.test_loop import NO_TRUTH, SAMPLING, ToyAnnotator, first_round, settings, toy_policy

from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.training.checkpoints import Checkpoints
from fisao_pipeline.training.loop import PolicyTrainer, TrainingResult
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


def attempt(world, params, checkpoints: Checkpoints | None, calls: int | None = None) -> tuple[TrainingResult, list]:
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

    policy = toy_policy(world, params.seed)
    first = first_round(world, policy)
    sampling = SAMPLING.model_copy(update={"batch_size": 16})
    trainer = PolicyTrainer(policy, ToyAnnotator(world), world.prompts, sampling, params, NO_TRUTH, log, checkpoints)
    return trainer.train(*first), logged


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    assert result.adapter_config == expected.adapter_config
    assert result.adapter_state.keys() == expected.adapter_state.keys()
    assert all(torch.equal(result.adapter_state[name], value) for name, value in expected.adapter_state.items())
    pd.testing.assert_frame_equal(result.rollouts, expected.rollouts)
    pd.testing.assert_frame_equal(result.history.drop(columns=TIMES), expected.history.drop(columns=TIMES))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_killed_again_and_again_it_ends_where_it_would_have_ended(world, tmp_path, options):
    params = settings(rounds=3, **options)
    expected, whole = attempt(world, params, None)
    kills = 0
    for _ in range(100):
        rows = (
            0 if kills == 0 else len(stores(tmp_path)[0].get(stores(tmp_path)[0].keys()[-1]).values["state"]["history"])
        )
        try:
            # Past the rows that are logged again, and the two steps to the next checkpoint.
            result, logged = attempt(world, params, kept_in(tmp_path), rows + 4)
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert_same(result, expected)
    rounds = [(row["round"], step) for row, step in whole[1:] if "round" in row]
    assert [(row["round"], step) for row, step in logged if row.get("round", -1) >= 0] == rounds
    folder, shards = stores(tmp_path)
    assert len(folder.keys()) == 2
    drop(folder, ["run"])
    drop(shards, ["run"])
    assert folder.keys() == shards.keys() == []
