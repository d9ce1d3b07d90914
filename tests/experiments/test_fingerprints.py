"""A row's name changes with everything that it depends on, and with nothing else."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest
from tests.experiments.test_arms import arm, settings_of

from fisao_pipeline.experiments.arms import plan_rows
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.models.source import ModelSource

BASE = settings_of("base")
PROMPTS = pd.DataFrame({"prompt_id": ["a", "b"], "prompt": ["What?", "Where?"]})
MANIFEST = pd.DataFrame({"image_id": ["a"], "sha256": ["00"], "objects": [["dog", "cat"]]})


@pytest.fixture
def models(tmp_path):
    for name in ("vlm", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"name": "{name}"}}')
    return tmp_path


def inputs(models, prompts=PROMPTS, manifest=MANIFEST, **backbone) -> StudyInputs:
    source = ModelSource(str(models / "vlm"), dtype="float32")
    tables = {"prompts": prompts, "image_manifest": manifest}
    return StudyInputs.of(replace(source, **backbone), ModelSource(str(models / "clip")), tables)


def row(seed=0, **changes):
    (planned,) = plan_rows(BASE, [arm(**changes)], [seed])
    return planned


def test_the_same_content_has_the_same_name(models):
    fixed = StudyInputs(backbone="b", verifier="v", data="d", version="0.1.0")
    assert fixed.row_key(row()) == fixed.row_key(row()) != fixed.row_key(row(seed=1))
    assert inputs(models) == inputs(models, PROMPTS.copy(), MANIFEST.copy())
    assert fixed.row_key(row(seed=12)).startswith("seed-12-")


def test_the_name_of_the_arm_is_no_part_of_it(models):
    (one,), (other,) = (plan_rows(BASE, [arm(name)], [0]) for name in ("one", "other"))
    assert inputs(models).row_key(one) == inputs(models).row_key(other)


@pytest.mark.parametrize(
    "changes",
    [
        {"policy_training__ppo__kl_coef": 0.5},
        {"reward_annotation__margin": 0.1},
        {"response_sampling__temperature": 0.9},
        {"benchmark_evaluation__bootstrap_resamples": 100},
    ],
)
def test_every_stages_parameters_count(models, changes):
    assert inputs(models).row_key(row()) != inputs(models).row_key(row(**changes))


def test_models_and_data_count_by_content(models):
    before = inputs(models)
    seen = {before.row_key(row())}
    variants = [
        inputs(models, dtype="bfloat16"),
        inputs(models, options={"image_size": 96}),
        inputs(models, prompts=PROMPTS.assign(prompt="Why?")),
        inputs(models, prompts=PROMPTS[::-1]),
        inputs(models, manifest=MANIFEST.assign(sha256="01")),
        inputs(models, manifest=MANIFEST.assign(objects=[["dog"]])),
        replace(before, version="9"),
    ]
    (models / "clip" / "config.json").write_text("{}")
    variants.append(inputs(models))
    seen |= {variant.row_key(row()) for variant in variants}
    assert len(seen) == 1 + len(variants)


def test_where_a_model_lies_and_what_it_runs_on_do_not_count(models):
    before = inputs(models).row_key(row())
    assert inputs(models, device="cuda").row_key(row()) == before
    shutil.move(models / "vlm", models / "moved")
    assert inputs(models, path_or_id=str(models / "moved")).row_key(row()) == before


def test_a_vocabulary_file_counts_by_content(models, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("dog, puppy\n")
    change = {"reward_annotation__vocabulary": str(path)}
    before = inputs(models).row_key(row(**change))
    path.write_text("dog\n")
    assert inputs(models).row_key(row(**change)) != before


def test_shared_work_goes_by_what_it_depends_on_alone(models):
    study = inputs(models)
    first, other = row(), row(policy_training__ppo__kl_coef=0.5, reward_annotation__rule="margin").settings
    sampling, evaluation = first.settings.response_sampling, first.settings.benchmark_evaluation
    assert study.responses_keys(sampling) == study.responses_keys(other.response_sampling)
    assert study.base_key(evaluation) == study.base_key(other.benchmark_evaluation)
    assert study.base_key(evaluation) == study.base_key(row(seed=1).settings.benchmark_evaluation)
    assert study.responses_keys(sampling) != study.responses_keys(row(seed=1).settings.response_sampling)
    assert replace(study, verifier="x").responses_keys(sampling) == study.responses_keys(sampling)
    for changed in (replace(study, backbone="x"), replace(study, data="x"), replace(study, version="x")):
        assert changed.responses_keys(sampling) != study.responses_keys(sampling)
        assert changed.base_key(evaluation) != study.base_key(evaluation)
