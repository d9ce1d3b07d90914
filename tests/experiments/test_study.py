"""Running rows, with stages that only count: what is kept, what is shared, what is said."""

import logging
from contextlib import contextmanager

import pandas as pd
import pytest
from tests.experiments.test_arms import arm, settings_of

from fisao_pipeline.experiments.arms import plan_rows
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.experiments.study import Study

BASE = settings_of("base")
INPUTS = StudyInputs(backbone="b", verifier="v", data="d", version="0")


class Store(dict):
    def put(self, key, value):
        self[key] = value


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
    records = study(stages).run(plan())
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


def test_a_row_that_fails_leaves_those_before_it_and_is_run_again(caplog):
    rows, cache = Store(), Store()
    with caplog.at_level(logging.WARNING, logger="fisao_pipeline"), pytest.raises(FloatingPointError):
        study(Stages(fails_with_margin=True), rows, cache).run(plan())
    assert [row["arm"] for row in rows.values()] == ["default"]
    assert caplog.messages == ["1 of 4 rows are kept; the same command goes on with the next."]
    stages = Stages()
    assert len(study(stages, rows, cache).run(plan())) == 4
    assert stages.calls.count("train") == 3 and stages.calls.count("answer_base") == 0


def test_a_file_under_another_rows_name_is_not_taken_for_it(caplog):
    rows = Store()
    first, second = plan(seeds=(0,))
    study(Stages(), rows).run([first])
    rows[INPUTS.row_key(second)] = rows[INPUTS.row_key(first)]
    stages = Stages()
    _, record = study(stages, rows).run([first, second])
    assert record["comparison"]["said"][1] == "('margin', 0)"
    assert stages.calls.count("train") == 1
    assert "it is run again" in caplog.text


def test_arms_with_the_same_settings_are_run_once_and_it_is_said(caplog):
    stages = Stages()
    with caplog.at_level(logging.INFO, logger="fisao_pipeline"):
        one, two = study(stages).run(plan(arm("one"), arm("two", reward_annotation__rule="posterior"), seeds=(0,)))
    assert (one["arm"], two["arm"]) == ("one", "two")
    assert one["comparison"] == two["comparison"]
    assert stages.calls.count("train") == 1
    assert "(arm two, seed 0) is not run again: kept as arm one, which has the same settings, since" in caplog.text


def test_the_commit_is_information_and_no_reason_to_run_again():
    rows = Store()
    (first,) = study(Stages(), rows, information={"git_commit": "aaa"}).run(plan(arm(), seeds=(0,)))
    stages = Stages()
    (again,) = study(stages, rows, information={"git_commit": "bbb"}).run(plan(arm(), seeds=(0,)))
    assert stages.calls == []
    assert again == first and again["information"]["git_commit"] == "aaa"
    assert again["information"]["mlflow_run_id"] == f"run of {again['key']}"
