"""Predictions made elsewhere, through `kedro run`: figures, what was left out, and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.smoke_project import PROJECT, Smoke

from fisao_pipeline.runs.preflight import NotReadyError

DATA = Path(__file__).parents[4] / "shared" / "data" / "chair"
TRUTH = {"1": ["dog"], "2": ["cat", "bus"], "3": ["person"], "4": [], "5": ["dog"]}
GOOD = [
    {"image_id": 1, "caption": "A dog and a cat."},
    {"image_id": "2", "caption": "Two buses."},
    {"image_id": 3.0, "caption": ""},
    {"image_id": 4, "caption": "Un chien et un autobus"},
    {"image_id": 5, "caption": "一只狗 " + "x" * 100_000},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory, mlflow_template) -> Smoke:
    return Smoke.make(tmp_path_factory.mktemp("score") / "project", mlflow_template, lambda folder: None)


@pytest.fixture(autouse=True)
def own_store(project, no_stray_mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.tracking_uri)


def lines(path: Path, rows) -> str:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n")
    return str(path)


@pytest.fixture
def chair(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))

    def settings(rows, **more):
        predictions = lines(tmp_path / "captions.jsonl", rows)
        return {"predictions": predictions, "instances": str(tmp_path / "truth.json"), **more}

    return settings


def test_captions_are_scored_and_said_in_json_table_and_mlflow(project, chair, capsys):
    session = project.run("score_predictions", score_predictions={"model": "theirs", "chair": chair(GOOD)})
    report = project.record("prediction_scores")
    scored = report["benchmarks"]["chair"]
    assert {name: value["value"] for name, value in scored["metrics"].items()} == {
        "chair_i": 1 / 3,
        "chair_s": 1 / 5,
        "recall": 2 / 5,
        "objects_per_caption": 3 / 5,
        "repeated_mentions": 0.0,
    }
    counts = {"rows": 5, "scored": 5, "left_out": {}, "unanswered": 0, "empty": 1, "not_in_latin_letters": 0}
    assert scored["counts"][""] == counts
    assert scored["settings"]["word_chain"] == "reference"
    assert re.fullmatch("[0-9a-f]{64}", scored["files"]["score_predictions.chair.predictions"])
    assert scored["breakdowns"]["by_category"][0] == {
        "category": "bus",
        "mentions": 1,
        "hallucinated": 0,
        "chair_i": 0.0,
        "images": 1,
        "named": 1,
        "recall": 1.0,
    }
    items = project.table("scored_items")
    assert list(items["item_id"]) == ["1", "2", "3", "4", "5"]
    assert [list(names) for names in items["hallucinated_categories"]] == [["cat"], [], [], [], []]
    printed = capsys.readouterr().out
    assert "chair: 5 of 5 predictions scored, 1 empty" in printed
    assert re.search(r"\| chair_i +\| 33.33 % \[", printed)
    assert project.tracked(session).data.metrics["score.chair.chair_i"] == pytest.approx(1 / 3)


FAULTY = [
    GOOD[0],
    b"{broken",
    b'{"image_id": 2, "caption": "\xff"}',
    {"image_id": 77, "caption": "a dog"},
    GOOD[0],
    ["a", "list"],
    {"image_id": 3},
    {"caption": "a dog"},
    {"image_id": 2, "caption": 7},
    b'{"image_id": 2, "caption": "\\ud800"}',
    b"",
    b"[" * 100_000,
    b"1" * 10_000,
    GOOD[1],
]


def test_faulty_lines_are_named_and_the_rest_is_scored_where_that_is_allowed(project, chair, capsys):
    settings = {"max_faulty_share": 0.9, "chair": chair(FAULTY, every_image=True)}
    project.run("score_predictions", score_predictions=settings)
    rejected = project.table("rejected_predictions")
    said = dict(zip(rejected["name"], rejected["reason"], strict=True))
    assert said == {
        "captions.jsonl line 2": "not JSON: Expecting property name enclosed in double quotes at column 2",
        "captions.jsonl line 3": "not UTF-8: invalid start byte at byte 29 of the line",
        "captions.jsonl line 4": "unknown id: image_id 77 is in no annotation",
        "captions.jsonl line 5": "duplicate: 1 has a prediction already",
        "captions.jsonl line 6": "not an object: list",
        "captions.jsonl line 7": "no field 'caption': the row holds 'image_id'",
        "captions.jsonl line 8": "no field 'image_id': the row holds 'caption'",
        "captions.jsonl line 9": "not text: int",
        "captions.jsonl line 10": "not Unicode: half of a surrogate pair",
        "captions.jsonl line 12": "not JSON: nested too deeply",
        "captions.jsonl line 13": said["captions.jsonl line 13"],
        "captions.jsonl id 3": "missing: no prediction",
        "captions.jsonl id 4": "missing: no prediction",
        "captions.jsonl id 5": "missing: no prediction",
    }
    assert said["captions.jsonl line 13"].startswith("not JSON: Exceeds the limit")
    scored = project.record("prediction_scores")["benchmarks"]["chair"]
    assert scored["counts"][""]["rows"] == 13
    assert scored["counts"][""]["scored"] == 2
    assert scored["counts"][""]["left_out"]["missing"] == 3
    assert sum(scored["counts"][""]["left_out"].values()) == len(rejected)
    assert "2 of 13 predictions scored, 1 left out (duplicate)" in capsys.readouterr().out


def test_faults_are_refused_by_default_and_listed_in_the_artifact(project, chair):
    before = project.versions("prediction_scores", "08_reporting")
    message = r"chair: 1 of 2 predictions cannot be scored: .*captions.jsonl line 2: not JSON.*max_faulty_share"
    with pytest.raises(ValueError, match=message):
        project.run("score_predictions", score_predictions={"chair": chair([GOOD[0], b"{"])})
    assert list(project.table("rejected_predictions")["name"]) == ["captions.jsonl line 2"]
    assert project.versions("prediction_scores", "08_reporting") == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "chair: no prediction can be scored: it holds no row"),
        ([b"image_id,caption", b"1,a dog"], "chair: no prediction can be scored: 2 x not JSON"),
    ],
)
def test_a_file_of_nothing_else_is_refused_whatever_is_tolerated(project, chair, rows, message):
    with pytest.raises(ValueError, match=message):
        project.run("score_predictions", score_predictions={"max_faulty_share": 1.0, "chair": chair(rows)})


def test_what_is_not_there_is_said_before_the_start(project, chair):
    with pytest.raises(NotReadyError, match="no benchmark of score_predictions has predictions"):
        project.run("score_predictions")
    with pytest.raises(
        NotReadyError, match=r"score_predictions\.chair\.captions\[1\]: there is no file 'b.json'"
    ) as refusal:
        project.run("score_predictions", score_predictions={"chair": chair(GOOD, captions=["a.json", "b.json"])})
    assert "captions[0]" in str(refusal.value)


QUESTIONS = [
    {
        "question_id": 1,
        "image": "COCO_val2014_000000000001.jpg",
        "text": "Is there a dog in the image?",
        "label": "yes",
    },
    {"question_id": 2, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a cat in the image?", "label": "no"},
]


def test_published_questions_by_id_and_in_order(project, tmp_path):
    questions = lines(tmp_path / "coco_pope_random.json", QUESTIONS)
    by_id = lines(tmp_path / "by_id.jsonl", [{"question_id": 2, "text": "no"}, {"question_id": 1, "text": "Nope"}])
    in_order = lines(tmp_path / "in_order.jsonl", [{"answer": "yes"}, {"answer": "yes"}])
    for id_field, field, answers, accuracy in (("question_id", "text", by_id, 1.0), (None, "answer", in_order, 0.5)):
        pope = {
            "predictions": {"random": answers, "popular": answers},
            "questions": {"random": questions, "popular": questions},
            "id_field": id_field,
            "text_field": field,
        }
        project.run("score_predictions", score_predictions={"pope": pope})
        metrics = project.record("prediction_scores")["benchmarks"]["pope"]["metrics"]
        assert {name: metrics[f"{name}.accuracy"]["value"] for name in ("random", "popular", "all")} == dict.fromkeys(
            ("random", "popular", "all"), accuracy
        )


def test_an_answer_too_few_and_one_too_many(project, tmp_path):
    questions = lines(tmp_path / "questions.json", QUESTIONS)
    for answers, message in (
        ([{"answer": "yes"}], "1 of 2 predictions cannot be scored: 1 x missing"),
        ([{"answer": "yes"}] * 3, "1 of 3 predictions cannot be scored: 1 x more rows than questions"),
    ):
        pope = {"predictions": {"random": lines(tmp_path / "a.jsonl", answers)}, "questions": {"random": questions}}
        with pytest.raises(ValueError, match=message):
            project.run(
                "score_predictions", score_predictions={"pope": {**pope, "id_field": None, "text_field": "answer"}}
            )


def test_coco_files_with_file_names_and_reference_captions(project, tmp_path):
    images = [{"id": 226988, "file_name": "COCO_val2014_000000226988.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    instances = {
        "images": images,
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 226988, "category_id": 1}, {"id": 2, "image_id": 5, "category_id": 1}],
    }
    captions = {"images": images, "annotations": [{"id": 1, "image_id": 2, "caption": "A cat on a bench."}]}
    for name, content in (("instances", instances), ("captions", captions)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    rows = [
        {"image": "val2014/COCO_val2014_000000226988.jpg", "text": "a dog and a cat"},
        {"image": "b.jpg", "text": "a cat on a bench"},
    ]
    chair = {
        "predictions": lines(tmp_path / "c.jsonl", rows),
        "instances": str(tmp_path / "instances.json"),
        "captions": str(tmp_path / "captions.json"),
        "id_field": "image",
        "text_field": "text",
    }
    for image_ids, used in (("file_name", rows), ("coco_number", rows[:1])):
        lines(tmp_path / "c.jsonl", used)
        project.run("score_predictions", score_predictions={"chair": {**chair, "image_ids": image_ids}})
        items = project.table("scored_items")
        assert items["item_id"].tolist() == ["226988", "2"][: len(used)]
        assert list(items["hallucinated_categories"][0]) == ["cat"]
        # The files declare no bench, so that nothing is said of it.
        assert items["unscored_mentions"].tolist() == [0, 1][: len(used)]
        assert items["hallucinated_mentions"].tolist() == [1, 0][: len(used)]


def test_real_captions_through_the_pipeline(project):
    if not DATA.is_dir():
        pytest.skip("the reference captions and CHAIR's answers to them are not part of the project")
    chair = {
        "predictions": str(DATA / "llava15_7b_greedy_500.jsonl"),
        "instances": str(DATA / "coco_val2014_objects_500.json"),
    }
    project.run("score_predictions", score_predictions={"chair": chair})
    metrics = project.record("prediction_scores")["benchmarks"]["chair"]["metrics"]
    assert metrics["chair_s"]["value"] == 0.450
    assert round(metrics["chair_i"]["value"], 5) == 0.12784
    assert round(metrics["recall"]["value"], 4) == 0.7979


def test_the_other_benchmarks_in_one_run(project, tmp_path, capsys):
    """Each from its own file, with a fault in each; the item table holds them all."""
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    references = [{"image_id": 1, "caption": "A dog sits."}, {"image_id": 2, "caption": "Two cats sleep."}]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": references}))
    (tmp_path / "objects.json").write_text(json.dumps({"1": ["dog"], "2": ["cat"]}))
    (tmp_path / "annotations.json").write_text(
        json.dumps(
            [
                {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
                {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
                {"id": 3, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
            ]
        )
    )
    (tmp_path / "relation.json").write_text(json.dumps({"dog": [], "cat": []}))
    (tmp_path / "safe.txt").write_text("light\n")
    (tmp_path / "amber.json").write_text(
        json.dumps(
            [{"id": 1, "response": "A dog and a cat."}, {"id": 2, "response": "No"}, {"id": 9, "response": "No"}]
        )
    )
    mme = [
        {"category": "color", "image": "a.jpg", "label": label, "answer": answer}
        for label, answer in (("Yes", "yes"), ("No", "no"))
    ]
    settings = {
        "max_faulty_share": 0.5,
        "captions": {
            "predictions": lines(tmp_path / "c.jsonl", [{"image_id": 1, "caption": "a dog sits"}, {"image_id": 7}]),
            "captions": str(tmp_path / "captions.json"),
        },
        "object_halbench": {
            "predictions": lines(
                tmp_path / "h.jsonl", [{"image_id": 1, "objects": ["dog", "cat"]}, {"image_id": 1, "objects": "dog"}]
            ),
            "instances": str(tmp_path / "objects.json"),
            "captions": str(tmp_path / "captions.json"),
        },
        "clip_score": {
            "predictions": lines(
                tmp_path / "s.jsonl", [{"image_id": "x", "cosine": 0.2}, {"image_id": "y", "cosine": 9}]
            )
        },
        "mme": {"predictions": lines(tmp_path / "m.jsonl", [*mme, {**mme[0], "image": "b.jpg"}])},
        "amber": {
            "predictions": str(tmp_path / "amber.json"),
            "annotations": str(tmp_path / "annotations.json"),
            "relation": str(tmp_path / "relation.json"),
            "safe_words": str(tmp_path / "safe.txt"),
        },
    }
    project.run("score_predictions", score_predictions=settings)
    benchmarks = project.record("prediction_scores")["benchmarks"]
    values = {
        f"{name}.{metric}": interval["value"]
        for name, scored in benchmarks.items()
        for metric, interval in scored["metrics"].items()
    }
    expected = {
        "amber.chair": 1 / 2,
        "amber.f1": 1.0,
        "amber.amber_score": 0.75,
        "mme.color.accuracy_plus": 1.0,
        "mme.score": 200.0,
        "captions.bleu_1": pytest.approx(1.0),
        "captions.rouge_l": pytest.approx(1.0),
        "object_halbench.object_hallucination": 1 / 2,
        "clip_score.clip_score": pytest.approx(0.5),
    }
    assert {name: values[name] for name in expected} == expected
    reasons = dict(project.table("rejected_predictions")[["name", "reason"]].values)
    assert reasons == {
        "amber.json line 3": "unknown id: id 9 is in no annotation",
        "m.jsonl line 3": "not one of two: image b.jpg of color",
        "c.jsonl line 2": "unknown id: image_id 7 is in no annotation",
        "h.jsonl line 2": "not a list of words: str",
        "s.jsonl line 2": "not a cosine: 9",
    }
    unanswered = {name: scored["counts"][""]["unanswered"] for name, scored in benchmarks.items()}
    assert unanswered == {"amber": 1, "mme": 0, "captions": 1, "object_halbench": 1, "clip_score": 0}
    assert "none for 1 more in the annotations" in capsys.readouterr().out
    assert list(benchmarks) == ["amber", "mme", "captions", "object_halbench", "clip_score"]
    assert set(project.table("scored_items")["benchmark"]) == set(benchmarks)


def test_questions_built_from_annotations_are_asked_and_scored(project, tmp_path):
    objects = {str(n): ["dog", "cat", f"thing {n}"] for n in range(4)} | {"x": ["bus", "car", "kite", "cup"]}
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    project.run("pope_questions", pope_questions={"instances": str(tmp_path / "objects.json"), "images": 5})
    files = {
        name: project.root / "data" / "smoke" / "05_model_input" / f"pope_questions_{name}.jsonl"
        for name in ("random", "popular", "adversarial")
    }
    asked = [json.loads(line) for line in files["popular"].read_text().splitlines()]
    assert len(asked) == 30
    assert asked[0].keys() == {"question_id", "image", "text", "label"}
    answers = lines(tmp_path / "a.jsonl", [{"question_id": row["question_id"], "text": row["label"]} for row in asked])
    pope = {"predictions": {"popular": answers}, "questions": {"popular": str(files["popular"])}}
    project.run("score_predictions", score_predictions={"pope": pope})
    metrics = project.record("prediction_scores")["benchmarks"]["pope"]["metrics"]
    assert (metrics["popular.accuracy"]["value"], metrics["popular.yes_ratio"]["value"]) == (1.0, 0.5)
    with pytest.raises(ValueError, match=r"pope_questions\.instances: None is no file"):
        project.run("pope_questions")


@pytest.mark.slow
def test_captions_scored_by_the_shipped_verifier(tmp_path, mlflow_template, monkeypatch):
    """A caption of what a picture shows fits it better than one of another picture; a broken picture is named."""
    own = Smoke.make(
        tmp_path / "project",
        mlflow_template,
        lambda folder: shutil.copytree(PROJECT / "data" / "06_models" / "pocket_verifier", folder / "pocket_verifier"),
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.tracking_uri)
    own.run("pocket_world", tags=["scenes"])
    scenes = own.root / "data" / "smoke" / "01_raw" / "pocket_scenes"
    coco = json.loads((scenes / "annotations.json").read_text())
    names = {row["id"]: row["name"] for row in coco["categories"]}
    shown: dict[int, str] = {}
    for row in coco["annotations"]:
        if "category_id" in row:
            shown.setdefault(row["image_id"], names[row["category_id"]])
    files = {row["id"]: row["file_name"] for row in coco["images"]}
    words = list(shown.values())
    means = []
    for captions in (words, words[len(words) // 2 :] + words[: len(words) // 2]):
        rows = [{"image": files[i], "caption": f"a {word}"} for i, word in zip(shown, captions, strict=True)]
        rows.append({"image": "no_such.png", "caption": "a dog"})
        clip = {"predictions": lines(tmp_path / "c.jsonl", rows), "id_field": "image"}
        own.run("clip_score", score_predictions={"max_faulty_share": 0.2, "clip_score": clip})
        scored = own.record("prediction_scores")["benchmarks"]["clip_score"]
        assert scored["counts"][""]["left_out"] == {"unknown id": 1}
        means.append(scored["metrics"]["clip_score"]["value"])
    assert means[0] > means[1] > 0


@pytest.fixture(scope="module")
def coco_sized(tmp_path_factory):
    """What scoring 40,504 captions took, with 202,520 reference captions and 10,000 resamples."""
    source = DATA / "llava15_7b_greedy_500.jsonl"
    if not source.is_file():
        pytest.skip("the reference captions are not part of the project")
    module, folder = "tests.pipelines.score_predictions.many_captions", tmp_path_factory.mktemp("many")
    command = [sys.executable, "-m", module, str(source), str(folder), "40504"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_captions_of_all_of_val2014_in_a_minute_and_a_gigabyte(coco_sized):
    assert coco_sized["items"] == 40_504
    assert coco_sized["seconds"] <= 60, coco_sized
    assert coco_sized["written_mib"] < coco_sized["peak_mib"] <= 1024, coco_sized
