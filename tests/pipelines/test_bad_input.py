"""What a user may hand over by mistake, through the stages: a message that names stage and setting, nothing lost."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.framework.startup import bootstrap_project
from tests.pocket_models import build_pocket_models
from tests.smoke_project import PROJECT, Smoke

from fisao_pipeline.artifacts.file_memory import sha256
from fisao_pipeline.artifacts.provenance import seal
from fisao_pipeline.datasets.contents import content_of
from fisao_pipeline.method.calibration import CalibrationError
from fisao_pipeline.pocket.scenes import CATEGORIES
from fisao_pipeline.runs.preflight import NotReadyError

# The models are the shipped ones, which name what they see and are told apart; few scenes give few mentions.
ANNOTATED = {"calibration": "annotated", "min_mentions": 4}
ONE_RESPONSE = {"responses_per_prompt": 1, "calibration_prompts": 8}
# Pays nothing whatever the score.
NOTHING_PAYS = {"rule": "margin", "margin": 1.0, "repeat_penalty": 0.0}


def shipped_models(folder: Path) -> None:
    for name in ("pocket_verifier", "pocket_vlm"):
        shutil.copytree(PROJECT / "data" / "06_models" / name, folder / name)


def run(project: Smoke, pipeline: str, **changes: dict[str, Any]) -> list[str]:
    """Run one stage with few mentions allowed; what the package warned of."""
    bootstrap_project(project.root)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("fisao_pipeline")
    logger.addHandler(handler)
    try:
        project.run(pipeline, **{**changes, "reward_annotation": {**ANNOTATED, **changes.get("reward_annotation", {})}})
    finally:
        logger.removeHandler(handler)
    return said


@pytest.fixture(scope="module")
def project(tmp_path_factory, mlflow_template) -> Iterator[Smoke]:
    """All stages up to the training have run once."""
    smoke = Smoke.make(tmp_path_factory.mktemp("bad_input") / "project", mlflow_template, shipped_models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", smoke.tracking_uri)
        smoke.run("pocket_world", tags=["scenes"])
        for stage in ("image_ingestion", "response_sampling", "reward_annotation", "policy_training"):
            run(smoke, stage)
        yield smoke


@pytest.fixture(autouse=True)
def own_store(project, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)


def files(project: Smoke) -> dict[Path, str]:
    """Every artifact's content; the verifier's texts are no artifact, and kept whatever a run ends in."""
    data = project.root / "data" / "smoke"
    layers = ("02_intermediate", "03_primary", "04_feature", "05_model_input", "06_models", "07_model_output")
    found = (file for layer in layers for file in (data / layer).rglob("*") if file.is_file())
    kept = (file for file in found if "verifier_texts" not in file.parts)
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def refused(project: Smoke, message: str, pipeline: str, error: type[Exception] = ValueError, **changes) -> None:
    """The stage ends with this message, no artifact is lost or touched, and none is added."""
    before = files(project)
    with pytest.raises(error, match=message):
        run(project, pipeline, **changes)
    assert files(project) == before


def warned(project: Smoke, message: str, pipeline: str, **changes) -> None:
    """The stage goes on and says so once, and keeps the artifacts of before."""
    before = files(project)
    said = run(project, pipeline, **changes)
    assert sum(message in line for line in said) == 1, said
    assert before.items() <= files(project).items()


@contextmanager
def changed(file: Path, change: Callable[[Path], None]) -> Iterator[None]:
    """A file that is another one for a while."""
    content = file.read_bytes()
    try:
        change(file)
        yield
    finally:
        file.write_bytes(content)


@contextmanager
def remade(file: Path, change: Callable[[Path], None]) -> Iterator[None]:
    """An artifact that is another one for a while, as if a run had made it so: one that was edited is refused."""

    def reseal(record_file: Path) -> None:
        record = json.loads(record_file.read_text()) | {"content": content_of(file, sha256)}
        record_file.write_text(json.dumps(record | {"seal": seal(record)}))

    with changed(file, change), changed(file.with_name("provenance.json"), reseal):
        yield


def artifact(project: Smoke, name: str, layer: str = "04_feature") -> Path:
    return project.folder(name, layer) / project.versions(name, layer)[-1] / project.folder(name, layer).name


# --- vocabulary ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ["annotated", "mixture", "contrast"])
def test_no_response_names_an_object(project, tmp_path, calibration):
    file = tmp_path / "words.txt"
    file.write_text("unicorn\nzeppelin\n")
    message = r"^reward_annotation: none of the 8 calibration responses names an object.*reward_annotation\.vocabulary"
    settings = {"vocabulary": str(file), "calibration": calibration}
    refused(project, message, "reward_annotation", CalibrationError, reward_annotation=settings)


def test_no_response_names_an_object_and_the_baseline_is_fixed(project, tmp_path):
    """Nothing has to be calibrated, so that the run goes on: with nothing to learn, as both stages say."""
    file = tmp_path / "words.txt"
    file.write_text("unicorn\nzeppelin\n")
    settings = {"vocabulary": str(file), "calibration": "fixed"}
    message = "reward_annotation: none of the 16 training responses names an object of the vocabulary"
    warned(project, message, "reward_annotation", reward_annotation=settings)
    message = "policy_training: all 16 responses of round 0 earn the same reward (0)"
    warned(project, message, "policy_training", reward_annotation=settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"dog, puppy\n\ncat, puppy\n", "'puppy' belongs both to category 'dog' and to category 'cat'"),
        (b"\n\n# dog\n", r"no category in it \(every line is blank"),
        (b"dog\n, puppy\n", "line 2: no name before the first comma"),
        (b"dog\n--\n", "'--' holds no word"),
        ("café\n".encode("latin-1"), "is no UTF-8 text"),
        (None, "is neither a file nor one of 'coco'"),
    ],
)
def test_a_vocabulary_file_that_cannot_be_read(project, tmp_path, content, message):
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    settings = {"vocabulary": str(file)}
    refused(project, rf"^reward_annotation\.vocabulary: .*{message}", "reward_annotation", reward_annotation=settings)


def test_words_twice_and_empty_lines(project, tmp_path):
    file = tmp_path / "words.txt"
    words = sorted(CATEGORIES)
    file.write_text("\n\n".join([f"{words[0]}, {words[0].upper()}", *words, words[-1], "dog, hound", "dog, doggy"]))
    warned(
        project,
        f"reward_annotation.vocabulary: {file} holds words twice ({words[0].upper()!r} in line 1 and line 1, ",
        "reward_annotation",
        reward_annotation={"vocabulary": str(file)},
    )
    run(project, "reward_annotation")


# --- responses and rewards -----------------------------------------------------------------------------------------


def test_one_response_a_prompt(project):
    """It is fine for `gae`, and nothing to compare for whatever compares: told before the first stage of a run."""
    sampling = {"response_sampling": ONE_RESPONSE}
    contrast = {"calibration": "contrast"}
    too_few = r".*response_sampling\.responses_per_prompt is 1: make it 2 or more"
    for settings, what in (
        ({"reward_annotation": contrast}, "reward_annotation: calibration `contrast`"),
        ({"policy_training": {"ppo": {"advantage": "group"}}}, r"policy_training: ppo\.advantage `group`"),
        ({"policy_training": {"trainer": "dpo"}}, "policy_training: trainer `dpo`"),
        ({"policy_training": {"trainer": "rejection_sampling"}}, "policy_training: trainer `rejection_sampling`"),
    ):
        refused(project, f"Nothing was run:\n- {what}{too_few}", "train", NotReadyError, **settings, **sampling)
        arms = {"seed_study": {"seeds": [0], "arms": [{"name": "arm", "set": {}}]}}
        refused(project, f"- arm 'arm': {what}{too_few}", "seed_study", ValueError, **settings, **sampling, **arms)
    run(project, "response_sampling", **sampling)
    message = r"^reward_annotation: calibration `contrast` .*response_sampling\.responses_per_prompt to 2 or more"
    refused(project, message, "reward_annotation", CalibrationError, reward_annotation=contrast, **sampling)
    run(project, "reward_annotation", **sampling)
    run(project, "policy_training", **sampling)
    for stage in ("response_sampling", "reward_annotation"):
        run(project, stage)


def silence(project: Smoke, split: str, count: int | None) -> Callable[[Path], None]:
    """Take all tokens from some responses of a split."""

    def change(file: Path) -> None:
        table = pd.read_parquet(file)
        for row in table.index[table["split"] == split][:count]:
            table.at[row, "text"] = ""
            for column in ("token_ids", "token_starts", "token_ends", "logprobs"):
                table.at[row, column] = []
        table.to_parquet(file)

    return change


@pytest.mark.parametrize("granularity", ["token", "phrase", "sentence"])
def test_a_response_of_zero_tokens(project, granularity):
    settings = {"reward_annotation": {"granularity": granularity}}
    with remade(artifact(project, "responses"), silence(project, "training", 1)):
        run(project, "reward_annotation", **settings)
        assert len(project.table("token_rewards")["token_rewards"].iloc[8]) == 0
        message = "policy_training: 1 of 16 responses hold no token and are left out"
        warned(project, message, "policy_training", **settings)
        message = r"^policy_training: prompts have \[1, 2\] responses each.*policy_training\.ppo\.advantage to `gae`"
        group = {"ppo": {"advantage": "group"}}
        refused(project, message, "policy_training", policy_training=group, **settings)
    run(project, "reward_annotation")


def test_no_response_has_a_token(project):
    with remade(artifact(project, "responses"), silence(project, "training", None)):
        run(project, "reward_annotation")
        message = r"^policy_training: all responses are empty.*response_sampling\.max_new_tokens"
        refused(project, message, "policy_training")
    run(project, "reward_annotation")


def test_all_rewards_are_equal(project):
    run(project, "reward_annotation", reward_annotation=NOTHING_PAYS)
    for trainer, message in (
        ("ppo", "policy_training: all 16 responses of round 0 earn the same reward (0)"),
        ("dpo", "Round 0 has no pair of responses to a prompt that differ"),
        ("rejection_sampling", "Round 0 has no prompt whose best response beats its worst"),
    ):
        settings = {"reward_annotation": NOTHING_PAYS, "policy_training": {"trainer": trainer}}
        warned(project, message, "policy_training", **settings)
    run(project, "reward_annotation")


# --- prompts -------------------------------------------------------------------------------------------------------


def lengthen(every: int) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows[::every]:
            row["prompt"] = "umbrella " * 300
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change


def test_prompts_longer_than_the_context(project):
    prompts = project.root / "data" / "smoke" / "01_raw" / "pocket_scenes" / "prompts.jsonl"
    with changed(prompts, lengthen(5)):
        run(project, "image_ingestion")
        warned(project, "8 x prompt too long", "response_sampling")
    with changed(prompts, lengthen(1)):
        run(project, "image_ingestion")
        for stage, split in (("response_sampling", "calibration"), ("benchmark_evaluation", "held_out")):
            message = rf"^{stage}: no prompt of the split '{split}'.*context is 192.*Lower {stage}\.max_new_tokens"
            refused(project, message, stage)
    for stage in ("image_ingestion", "response_sampling", "reward_annotation"):
        run(project, stage)


# --- calibration ---------------------------------------------------------------------------------------------------


def annotate_everything(file: Path) -> None:
    """Every category in every picture."""
    coco = json.loads(file.read_text())
    pairs = [(image["id"], category["id"]) for image in coco["images"] for category in coco["categories"]]
    coco["annotations"] = [
        {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0}
        for number, (image, category) in enumerate(pairs)
    ]
    file.write_text(json.dumps(coco))


def annotate_nothing(file: Path) -> None:
    """Every picture is annotated, and empty."""
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))


@pytest.mark.parametrize(("change", "missing"), [(annotate_everything, "hallucinated"), (annotate_nothing, "correct")])
def test_a_calibration_set_of_one_class(project, change, missing):
    annotations = project.root / "data" / "smoke" / "01_raw" / "pocket_scenes" / "annotations.json"
    with changed(annotations, change):
        run(project, "image_ingestion")
        message = rf"^reward_annotation: calibration `annotated` found 0 {missing} mentions.*reward_annotation\.calibra"
        refused(project, message, "reward_annotation", CalibrationError)
        run(project, "reward_annotation", reward_annotation={"calibration": "mixture"})
    for stage in ("image_ingestion", "reward_annotation"):
        run(project, stage)


@pytest.mark.parametrize("calibration", ["annotated", "mixture", "contrast"])
def test_too_few_mentions(project, calibration):
    message = rf"^reward_annotation: calibration `{calibration}` found \d+ .*needs 500 .reward_annotation\.min_ment"
    settings = {"calibration": calibration, "min_mentions": 500}
    refused(project, message, "reward_annotation", CalibrationError, reward_annotation=settings)


@pytest.fixture
def untrained_verifier(project, tmp_path) -> Iterator[None]:
    """A verifier that tells nothing, in the place of the one that does."""
    place = project.root / "data" / "smoke" / "06_models" / "pocket_verifier"
    kept = place.rename(tmp_path / "kept")
    shutil.move(build_pocket_models(tmp_path / "untrained") / "pocket_verifier", place)
    yield
    shutil.rmtree(place)
    shutil.move(kept, place)


def test_a_verifier_that_tells_nothing(project, untrained_verifier):
    """With labels its classes are the wrong way round; without, the fitted AUROC warns, marked as no measurement."""
    sampling = {"response_sampling": {"calibration_prompts": 8, "responses_per_prompt": 6}}
    run(project, "response_sampling", **sampling)
    message = r"no higher than hallucinated ones.*would do harm.*reward_annotation\.template"
    refused(project, message, "reward_annotation", CalibrationError, **sampling)
    settings = {"calibration": "contrast", "contrast": {"agreement": 0.6}, "template": "{}"}
    message = "< reward_annotation.min_auroc 0.60, of the fitted components, not measured): training on its scores may"
    warned(project, message, "reward_annotation", reward_annotation=settings, **sampling)
    baseline = json.loads(artifact(project, "verifier_baseline").read_text())
    assert baseline["auroc_of"] == "components"
    assert baseline["mentions"]["auroc"] < 0.6
    assert baseline["rests_on"] > 100
