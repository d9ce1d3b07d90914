"""Running rows, with stages that only count: what is kept, what is shared, what is said."""

import logging
import multiprocessing
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from tests.experiments.test_arms import arm, settings_of

from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.experiments.arms import plan_rows
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.experiments.study import NotKeptError, Study

BASE = settings_of("base")
INPUTS = StudyInputs(backbone="b", verifier="v", data="d", version="0")


class Store(dict):
    """Values by key; ``elsewhere`` are the keys that another process has in hand."""

    def __init__(self, elsewhere=()):
        super().__init__()
        self.elsewhere, self.claimed = set(elsewhere), []

    def put(self, key, value):
        assert key in self.claimed or key.startswith("rejected"), "kept without a claim"
        self[key] = value

    @contextmanager
    def claim(self, key, wait=False):
        ours = key not in self.elsewhere
        if ours:
            self.claimed.append(key)
        yield ours


class Stages:
    """Each stage returns what tells its inputs apart."""

    def __init__(self, fails_with_margin=False):
        self.fails_with_margin, self.calls = fails_with_margin, []

    def sample(self, sampling):
        self.calls.append("sample")
        return pd.DataFrame({"seed": [sampling.seed]}), pd.DataFrame({"name": [f"too long at {sampling.seed}"]})

    def annotate(self, responses, annotation):
        return {"rule": annotation.rule, "seed": int(responses["seed"].item())}, pd.DataFrame()

    def train(self, responses, rejected_prompts, baseline, token_rewards, settings):
        self.calls.append("train")
        if self.fails_with_margin and baseline["rule"] == "margin":
            raise FloatingPointError("NaN")
        assert baseline["seed"] == settings.policy_training.seed, "another seed's responses"
        assert rejected_prompts["name"].tolist() == [f"too long at {settings.response_sampling.seed}"]
        history = pd.DataFrame({"round": [-1.0, 0.0], "kl": [float("nan"), 0.5], "kept": [False, True]})
        return (baseline["rule"], baseline["seed"]), history

    def answer_base(self, evaluation):
        self.calls.append("answer_base")
        return pd.DataFrame({"said": [f"base at {evaluation.temperature}"]})

    def answer_aligned(self, adapter, evaluation):
        return pd.DataFrame({"said": [f"{adapter}"]})

    def compare(self, predictions, evaluation):
        return {"said": predictions["said"].tolist()}


@contextmanager
def track(row, key):
    yield f"run of {key}"


def study(stages, rows=None, cache=None, **more):
    rows, cache = Store() if rows is None else rows, Store() if cache is None else cache
    return Study(stages, INPUTS, rows, cache, track, **more)


def plan(*arms, seeds=(0, 1)):
    return plan_rows(BASE, arms or [arm("default"), arm("margin", reward_annotation__rule="margin")], seeds)


def test_each_row_gets_its_own_results_and_the_shared_ones():
    stages = Stages()
    records, failed = study(stages).run(plan())
    assert failed == []
    assert [record["comparison"]["said"] for record in records] == [
        ["base at 1.0", "('posterior', 0)"],
        ["base at 1.0", "('margin', 0)"],
        ["base at 1.0", "('posterior', 1)"],
        ["base at 1.0", "('margin', 1)"],
    ]
    assert stages.calls.count("sample") == 2 and stages.calls.count("answer_base") == 1
    assert records[0]["history"] == [{"round": -1.0, "kept": False}, {"round": 0.0, "kl": 0.5, "kept": True}]
    assert set(records[0]["seconds"]) >= {"responses", "training", "base_predictions", "aligned_predictions"}


def test_the_base_answers_before_anything_is_trained():
    """An evaluation that cannot be done is known before hours of training."""
    stages = Stages()
    study(stages).run(plan())
    assert stages.calls.index("answer_base") < stages.calls.index("train")


def test_a_row_that_fails_leaves_the_others_and_is_run_again(caplog):
    rows, cache = Store(), Store()
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"):
        records, failed = study(Stages(fails_with_margin=True), rows, cache).run(plan())
    assert [(row["arm"], row["seed"]) for row in records] == [("default", 0), ("default", 1)]
    assert [(row["arm"], row["seed"], row["error"]) for row in failed] == [
        ("margin", 0, "FloatingPointError: NaN"),
        ("margin", 1, "FloatingPointError: NaN"),
    ]
    assert sorted(rows) == sorted(row["key"] for row in records), "nothing is kept of a failed row"
    assert caplog.messages == [
        f"Row {number} of 4 (arm margin, seed {seed}) failed, the study goes on without it."
        for number, seed in ((2, 0), (4, 1))
    ]
    assert all(entry.exc_info for entry in caplog.records)
    stages = Stages()
    records, failed = study(stages, rows, cache).run(plan())
    assert (len(records), failed) == (4, [])
    assert stages.calls.count("train") == 2 and stages.calls.count("answer_base") == 0


def test_an_interrupt_ends_the_study_at_once(caplog):
    class Interrupted(Stages):
        def annotate(self, responses, annotation):
            if annotation.rule == "margin":
                raise KeyboardInterrupt
            return super().annotate(responses, annotation)

    rows = Store()
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"), pytest.raises(KeyboardInterrupt):
        study(Interrupted(), rows).run(plan())
    assert [row["arm"] for row in rows.values()] == ["default"]
    assert caplog.messages == ["1 of 4 rows are kept; the same command goes on with the next."]


def test_a_row_that_cannot_be_kept_ends_the_study():
    """The disk is full: to train the others would be hours for nothing."""

    class Full(Store):
        def put(self, key, value):
            raise OSError("no space left")

    stages = Stages()
    with pytest.raises(NotKeptError, match=r"arm default, seed 0.*no space left"):
        study(stages, Full()).run(plan())
    assert stages.calls.count("train") == 1


def test_a_row_in_hand_elsewhere_is_left_to_that_process(monkeypatch):
    mine, theirs = plan(seeds=(0,))
    rows, stages = Store(elsewhere=[INPUTS.row_key(theirs)]), Stages()
    other = Store()
    study(Stages(), other).run([theirs])

    def finish(seconds):
        assert stages.calls.count("train") == 1, "it waits only when nothing else is left to do"
        dict.update(rows, other)

    monkeypatch.setattr("fisao_pipeline.experiments.study.time.sleep", finish)
    records, _ = study(stages, rows).run([theirs, mine])
    assert [record["arm"] for record in records] == ["margin", "default"], "in the plan's order"
    assert stages.calls.count("train") == 1


def test_a_row_that_another_process_gave_up_is_run(monkeypatch):
    rows, stages = Store(elsewhere=[INPUTS.row_key(row) for row in plan(seeds=(0,))]), Stages()
    monkeypatch.setattr("fisao_pipeline.experiments.study.time.sleep", lambda seconds: rows.elsewhere.clear())
    assert len(study(stages, rows).run(plan(seeds=(0,)))[0]) == 2
    assert stages.calls.count("train") == 2


def test_a_file_under_another_rows_name_is_not_taken_for_it(caplog):
    rows = Store()
    first, second = plan(seeds=(0,))
    study(Stages(), rows).run([first])
    rows[INPUTS.row_key(second)] = rows[INPUTS.row_key(first)]
    stages = Stages()
    (_, record), _ = study(stages, rows).run([first, second])
    assert record["comparison"]["said"][1] == "('margin', 0)"
    assert stages.calls.count("train") == 1
    assert "it is run again" in caplog.text


def test_arms_with_the_same_settings_are_run_once_and_it_is_said(caplog):
    stages = Stages()
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        same = plan(arm("one"), arm("two", reward_annotation__rule="posterior"), seeds=(0,))
        (one, two), _ = study(stages).run(same)
    assert (one["arm"], two["arm"]) == ("one", "two")
    assert one["comparison"] == two["comparison"]
    assert stages.calls.count("train") == 1
    assert "(arm two, seed 0) is not run again: kept as arm one, which has the same settings, since" in caplog.text


def test_the_commit_is_information_and_no_reason_to_run_again():
    rows = Store()
    ((first,), _) = study(Stages(), rows, information={"git_commit": "aaa"}).run(plan(arm(), seeds=(0,)))
    stages = Stages()
    ((again,), _) = study(stages, rows, information={"git_commit": "bbb"}).run(plan(arm(), seeds=(0,)))
    assert stages.calls == []
    assert again == first and again["information"]["git_commit"] == "aaa"
    assert again["information"]["mlflow_run_id"] == f"run of {again['key']}"


class Slow(Stages):
    """Writes down what it is asked to do, and takes its time."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def _note(self, what):
        with self.log.open("a") as file:
            file.write(f"{what}\n")
        time.sleep(0.3)

    def sample(self, sampling):
        self._note(f"sample {sampling.seed}")
        return super().sample(sampling)

    def answer_base(self, evaluation):
        self._note("answer_base")
        return super().answer_base(evaluation)

    def train(self, responses, rejected, baseline, rewards, settings):
        self._note(f"train {baseline['rule']} {baseline['seed']}")
        return super().train(responses, rejected, baseline, rewards, settings)


def _run_beside_others(folder: Path, start) -> None:
    import fisao_pipeline.experiments.study as module

    module.POLL_SECONDS = 0.05
    rows = KeyedFolder(folder / "rows", ".json", "json.JSONDataset")
    cache = KeyedFolder(folder / "cache", ".parquet", "pandas.ParquetDataset")
    start.wait()
    records, failed = study(Slow(folder / "log"), rows, cache).run(plan())
    assert (len(records), failed) == (4, [])


def test_processes_that_run_the_same_study_share_its_rows(tmp_path):
    """Nothing is done twice, and each ends with all rows."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    workers = [spawn.Process(target=_run_beside_others, args=(tmp_path, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    done = (tmp_path / "log").read_text().splitlines()
    rows = [f"train {rule} {seed}" for rule in ("posterior", "margin") for seed in (0, 1)]
    assert sorted(done) == sorted(["answer_base", "sample 0", "sample 1", *rows])
    kept = KeyedFolder(tmp_path / "rows", ".json", "json.JSONDataset")
    assert len(kept.keys()) == 4 and len(list((tmp_path / "rows").iterdir())) == 4
