from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.comparison import compare, format_table
from fisao_pipeline.method.object_spans import ObjectVocabulary

COCO = ObjectVocabulary.from_name("coco")
QUICK = BootstrapSettings(n_resamples=200)
CAPTIONS = {
    "base": {"1": "a dog and a cat", "2": "a bus, a bus and a kite", "3": "a car"},
    "aligned": {"1": "a dog", "2": "a bus", "3": "a car and a tie"},
}
ANNOTATIONS = pd.DataFrame(
    {"image_id": ["1", "2", "3", "4"], "objects": [["dog"], ["bus", "car"], ["Bike", "car"], None]}
)


def caption_rows(decoding: str = "greedy", copies: int = 1) -> list[dict]:
    return [
        {
            "model": model,
            "decoding": decoding,
            "task": "caption",
            "image_id": image_id,
            "prompt": "Describe.",
            "answer": None,
            "response": response,
            "pope_strategy": None,
            "n_tokens": len(response.split()),
        }
        for model, captions in CAPTIONS.items()
        for image_id, response in captions.items()
        for _ in range(copies)
    ]


def pope_rows() -> list[dict]:
    asked = [("1", "Is there a dog?", "yes", "random"), ("1", "Is there a cat?", "no", "random")]
    asked += [("2", "Is there a bus?", "yes", "popular"), ("2", "Is there a cat?", "no", "popular")]
    said = {"base": ["Yes", "Yes", "Yes", "No"], "aligned": ["Yes", "No", "No", "No"]}
    return [
        {"model": model, "decoding": "greedy", "task": "pope", "image_id": image_id, "prompt": prompt}
        | {"answer": answer, "response": response, "pope_strategy": strategy, "n_tokens": 1}
        for model, responses in said.items()
        for (image_id, prompt, answer, strategy), response in zip(asked, responses, strict=True)
    ]


@pytest.fixture
def predictions() -> pd.DataFrame:
    return pd.DataFrame(caption_rows() + caption_rows("sampled", copies=3) + pope_rows())


def run(predictions, annotations=ANNOTATIONS, vocabulary=COCO, **arguments):
    return compare(predictions, annotations, vocabulary, **{"settings": QUICK, **arguments})


def values(report, model: str, decoding: str = "greedy") -> dict[str, float | None]:
    return {name: interval["value"] for name, interval in report[model][decoding].items()}


def test_hand_computed(predictions):
    report = run(predictions)
    assert values(report, "base") == pytest.approx(
        {
            "chair_i": 2 / 6,
            "chair_s": 2 / 3,
            "recall": 3 / 5,
            "objects_per_caption": 2.0,
            "repeated_mentions": 1 / 3,
            "tokens": 14 / 3,
            "pope_accuracy": 3 / 4,
            "pope_precision": 2 / 3,
            "pope_recall": 1.0,
            "pope_f1": 4 / 5,
            "pope_yes_ratio": 3 / 4,
            "pope_unparsed": 0.0,
            "pope_accuracy_random": 1 / 2,
            "pope_accuracy_popular": 1.0,
        }
    )
    aligned = values(report, "aligned")
    assert (aligned["chair_i"], aligned["chair_s"], aligned["recall"]) == pytest.approx((1 / 4, 1 / 3, 3 / 5))
    change = report["change"]["greedy"]
    assert change["chair_i"]["value"] == pytest.approx(1 / 4 - 1 / 3)
    assert change["chair_i_relative"]["value"] == pytest.approx(-1 / 4)
    assert change["recall"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert change["pope_accuracy_random"]["value"] == 1 / 2
    assert report["notes"] == []
    sampled = values(report, "base", "sampled")
    assert sampled == {name: values(report, "base")[name] for name in sampled}


def test_settings_tell_what_the_figures_rest_on(predictions):
    report = run(predictions)
    sizes = report["settings"]["samples"]
    assert sizes["greedy"] == {
        "captions": 3,
        "caption_images": 3,
        "images_without_annotation": 0,
        "caption_prompts": ["Describe."],
        "unscored_mentions": {"base": 0, "aligned": 0},
        "pope_questions": 4,
        "pope_images": 2,
    }
    assert (sizes["sampled"]["captions"], sizes["sampled"]["caption_images"], sizes["sampled"]["pope_questions"]) == (
        9,
        3,
        0,
    )
    assert report["settings"]["annotated_categories"] == 80


def test_json_ready(predictions):
    assert json.loads(json.dumps(run(predictions), allow_nan=False)) == run(predictions)


def test_survives_parquet(predictions, tmp_path):
    predictions.to_parquet(tmp_path / "p.parquet")
    ANNOTATIONS.to_parquet(tmp_path / "a.parquet")
    again = run(pd.read_parquet(tmp_path / "p.parquet"), pd.read_parquet(tmp_path / "a.parquet"))
    assert again == run(predictions)


def test_rows_in_any_order(predictions):
    assert run(predictions.sample(frac=1, random_state=0)) == run(predictions)


def test_integer_ids_match_text_ids(predictions):
    assert run(predictions.assign(image_id=predictions["image_id"].astype(int))) == run(predictions)


def test_samples_of_one_image_stay_together(predictions):
    report = run(predictions)
    for model in ("base", "aligned"):
        for name, interval in report[model]["sampled"].items():
            assert interval == pytest.approx(report[model]["greedy"][name])


def test_images_without_annotation_are_left_out_and_counted(predictions):
    report = run(predictions, ANNOTATIONS.assign(objects=[["dog"], None, ["car", "bike"], None]))
    assert values(report, "base")["chair_i"] == 1 / 3
    assert report["settings"]["samples"]["greedy"]["images_without_annotation"] == 1
    assert report["settings"]["samples"]["greedy"]["captions"] == 2
    assert "1 images without annotation left out" in format_table(report)


def test_nothing_annotated(predictions):
    report = run(predictions, ANNOTATIONS.iloc[:0])
    assert report["base"]["greedy"]["chair_i"] == {"value": None, "low": None, "high": None}
    assert report["change"]["greedy"]["chair_i_relative"]["value"] is None
    assert any("no captioned image is annotated" in note for note in report["notes"])
    assert report["base"]["greedy"]["pope_accuracy"]["value"] == 3 / 4
    json.dumps(report, allow_nan=False)
    format_table(report)


def test_no_mention_at_all(predictions):
    silent = predictions[predictions["task"] == "caption"].assign(response="Nothing to see.")
    report = run(silent)
    assert values(report, "base")["chair_i"] is None
    assert values(report, "base")["chair_s"] == 0.0
    assert report["notes"][0].startswith("greedy: undefined") and len(report["notes"]) == 2
    assert "chair_i of base and aligned (no caption names an object" in report["notes"][0]
    table = format_table(report)
    assert "nan" not in table.lower()
    assert "Note: greedy: undefined, for the denominator is zero: chair_i" in table
    assert "CHAIR_i" not in table and "CHAIR_s" in table


def test_own_images_without_annotations_get_one_note_a_decoding_and_no_table_of_dashes(predictions):
    report = run(predictions[predictions["task"] == "caption"], ANNOTATIONS.iloc[:0])
    assert all(report[model]["greedy"]["recall"]["value"] is None for model in ("base", "aligned", "change"))
    table = format_table(report)
    notes = [line for line in table.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 2 and all(note.count("no captioned image is annotated") == 1 for note in notes)
    assert "|" not in table and "–" not in table and "sampled decoding" in table


def test_what_is_undefined_for_one_model_keeps_its_row(predictions):
    silent = predictions["model"].eq("aligned") & predictions["task"].eq("caption")
    report = run(predictions.assign(response=predictions["response"].where(~silent, "Nothing to see.")))
    assert "chair_i of aligned (no caption" in report["notes"][0]
    assert "| CHAIR_i, % ↓" in format_table(report)


def test_annotated_categories_and_unknown_names(predictions):
    annotations = ANNOTATIONS.assign(objects=[["dog", "warp drive"], ["bus", "car"], ["bike", "car"], None])
    report = run(predictions, annotations, annotated_categories=["dog", "bus", "car", "tie", "Bicycle"])
    # "a cat" and "a kite" cannot be judged now, "a tie" can.
    assert values(report, "base")["chair_i"] == 0.0
    assert values(report, "aligned")["chair_i"] == 1 / 4
    assert report["settings"]["samples"]["greedy"]["unscored_mentions"] == {"base": 2, "aligned": 0}
    assert report["settings"]["objects_outside_vocabulary"] == ["warp drive"]
    assert report["change"]["greedy"]["chair_i_relative"]["value"] is None


def test_strict_parsing(predictions):
    maybe = predictions["task"].eq("pope") & predictions["response"].eq("Yes")
    odd = predictions.assign(response=predictions["response"].where(~maybe, "Perhaps"))
    assert values(run(odd), "base")["pope_yes_ratio"] == 3 / 4
    strict = run(odd, answer_parsing="strict")
    assert values(strict, "base")["pope_yes_ratio"] == 0.0
    assert values(strict, "base")["pope_unparsed"] == 3 / 4
    assert any("pope_precision" in note and "never says yes" in note for note in strict["notes"])


def test_the_word_chain_decides_what_is_found_and_stands_beside_the_figures(predictions):
    """The reference never finds "a bus", and says "ty" of ties."""
    captions = predictions[predictions["task"] == "caption"]
    said = captions.assign(response=captions["response"].where(captions["image_id"] != "2", "a bus and two ties"))
    spans, reference = run(said), run(said, word_chain="reference")
    assert [report["settings"]["word_chain"] for report in (spans, reference)] == ["spans", "reference"]
    assert "word chain reference" in format_table(reference)
    lost = [spans["base"]["greedy"][name]["value"] > reference["base"]["greedy"][name]["value"] for name in FOUND]
    assert lost == [True] * len(FOUND)


FOUND = ("objects_per_caption", "recall", "chair_s")


def test_nulls_are_equal_whatever_their_form(predictions):
    captions = predictions[predictions["task"] == "caption"]
    assert run(captions.assign(answer=np.nan)) == run(captions.assign(answer=None)) == run(captions)


def drop_one(frame):
    return frame.drop(index=frame.index[frame["model"] == "aligned"][0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.iloc[:0], "empty"),
        (lambda p: p.drop(columns=["response", "task"]), r"lack the columns \['task', 'response'\]"),
        (lambda p: p[p["model"] == "base"], "of 'base' have no counterpart of 'aligned'"),
        (drop_one, "1 predictions of 'base' have no counterpart of 'aligned', first: greedy caption, image 1"),
        (lambda p: p.assign(image_id=np.where(p["model"] == "base", p["image_id"], "9")), "not asked the same"),
        (lambda p: p.assign(prompt=np.where(p["model"] == "base", p["prompt"], "Look!")), "prompt 'Describe.'"),
        (lambda p: p.assign(model=p["model"].replace("aligned", "tuned")), r"'model' holds \['tuned'\]"),
        (lambda p: p.assign(task="vqa"), "'task' holds"),
        (lambda p: p.assign(decoding="nucleus"), "'decoding' holds"),
        (lambda p: p.assign(response=None), "have no response"),
    ],
)
def test_refusals(predictions, spoil, message):
    with pytest.raises(ValueError, match=message):
        run(spoil(predictions))


def test_image_annotated_twice(predictions):
    with pytest.raises(ValueError, match=r"images twice: \['1'\]"):
        run(predictions, pd.concat([ANNOTATIONS, ANNOTATIONS.iloc[:1]]))


def test_optional_columns(predictions):
    report = run(predictions.drop(columns=["n_tokens", "pope_strategy"]))
    assert "tokens" not in report["base"]["greedy"]
    assert "pope_accuracy_random" not in report["base"]["greedy"]
    captions_only = run(predictions[predictions["task"] == "caption"])
    assert "pope_accuracy" not in captions_only["base"]["greedy"]
    pope_only = run(predictions[predictions["task"] == "pope"])
    assert set(pope_only["base"]) == {"greedy"}
    assert "chair_i" not in pope_only["base"]["greedy"]
    assert pope_only["notes"] == []


def test_table(predictions):
    table = format_table(run(predictions))
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    cells = [cell.strip() for cell in rows["CHAIR_i, % ↓"].split("|")[2:-1]]
    assert [cell.split(" [")[0] for cell in cells] == ["33.3", "25.0", "-8.3", "-25.0 %"]
    assert all("[" in cell for cell in cells)
    assert rows["objects per caption"].split("|")[2].strip().startswith("2.00 [")
    assert "greedy decoding: 3 captions of 3 images; 4 questions on 2 images" in table
    assert "sampled decoding: 9 captions of 3 images" in table
    assert "95% intervals" in table
    widths = {len(line) for line in table.split("sampled decoding")[0].splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_settings_stand_beside_each_table(predictions):
    report = run(predictions.assign(finish_reason="length"))
    report["settings"] |= {"max_new_tokens": 48, "temperature": 0.7, "num_beams": 5, "vocabulary": "coco"}
    lines = {line.split(":")[0]: line for line in format_table(report).splitlines() if " decoding: " in line}
    assert set(lines) == {"greedy decoding", "sampled decoding"}
    greedy, sampled = (line for line in format_table(report).splitlines() if line.startswith("Settings: "))
    images = report["settings"]["asked"]["greedy"]["caption_images"]
    assert greedy.startswith(f"Settings: up to 48 tokens; vocabulary coco; word chain spans; images {images}; prompts ")
    assert greedy.endswith("unfinished last sentences (3 and 3 captions) read.")
    assert "temperature 0.7" in sampled and "temperature" not in greedy and "beams" not in greedy + sampled
    assert "questions" in greedy and "questions" not in sampled


def test_a_comparison_of_before_settings_were_told_is_shown_without(predictions):
    report = run(predictions)
    for name in ("asked", "unfinished_captions", "drop_unfinished_sentence", "word_chain"):
        del report["settings"][name]
    assert "Settings" not in format_table(report) and "CHAIR_i" in format_table(report)
