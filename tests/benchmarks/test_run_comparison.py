"""Several runs against the first: each pair as base and aligned, and no pair of different settings by accident."""

import json

import pandas as pd
import pytest
from tests.benchmarks.test_held_out import DECLARED, PARAMS, SHOWN, predictions

from fisao_pipeline.benchmarks.held_out import compare_models
from fisao_pipeline.benchmarks.run_comparison import compare_runs
from fisao_pipeline.benchmarks.run_settings import read_run
from fisao_pipeline.benchmarks.runs_table import runs_document
from fisao_pipeline.params.compare_runs import ComparedRun

MANIFEST = pd.DataFrame({"image_id": list(SHOWN), "objects": list(SHOWN.values())})
RECORDED = {"max_new_tokens": 48, "temperature": 1.0, "samples_per_prompt": 1, "num_beams": 5}


def provenance(**changed) -> dict:
    parameters = {f"benchmark_evaluation.{name}": value for name, value in {**RECORDED, **changed}.items()}
    libraries = {"fisao-pipeline": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    inputs = {"policy_adapter": "2026-01-01T00.00.00.000Z"}
    return {"parameters": parameters, "git_commit": "c0ffee" * 6, "libraries": libraries, "inputs": inputs}


def run(name, table=None, record="recorded", drop=False, **asked):
    table = predictions("A dog and a cat.") if table is None else table
    record = provenance() if record == "recorded" else record
    return read_run(name, ComparedRun(predictions="v1", **asked), "v1", table, record, drop)


def compared(*runs, allowed=(), params=PARAMS):
    return compare_runs(runs, MANIFEST, DECLARED, params, allowed)


def test_base_against_aligned_is_the_comparison_of_one_run():
    table = predictions("A dog and a cat.")
    found = compared(run("base", table, model="base"), run("tuned", table))
    expected = compare_models(table, MANIFEST, DECLARED, PARAMS)
    for part in ("base", "aligned", "change", "categories", "mcnemar", "examples", "notes"):
        assert found["pairs"]["tuned"][part] == expected[part]
    assert found["differing"] == {} and found["left_out"] == {}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_each_run_is_compared_with_the_first():
    better, worse = predictions("A dog and a cat."), predictions("A bus and a bird.")
    found = compared(run("first", better, model="base"), run("good", better), run("bad", worse))
    assert found["reference"] == "first" and list(found["pairs"]) == ["good", "bad"]
    chair = {name: pair["change"]["greedy"]["chair_i"]["value"] for name, pair in found["pairs"].items()}
    assert chair["good"] == pytest.approx(-1 / 3) and chair["bad"] == pytest.approx(2 / 3 - 1 / 3)
    assert found["pairs"]["good"]["base"] == found["pairs"]["bad"]["base"]


@pytest.mark.parametrize(
    ("setting", "value"), [("max_new_tokens", 512), ("temperature", 0.2), ("samples_per_prompt", 3)]
)
def test_a_setting_that_differs_is_refused_by_name_and_allowed_by_name(setting, value):
    runs = run("a"), run("b", record=provenance(**{setting: value}))
    told = rf"- {setting}: a {RECORDED[setting]}, b {value}\n(.|\n)*allow_different: \[{setting}\]"
    with pytest.raises(ValueError, match=told):
        compared(*runs)
    with pytest.raises(ValueError, match=setting):
        compared(*runs, allowed=["prompts", "images"])
    found = compared(*runs, allowed=[setting])
    assert found["differing"] == {setting: {"a": RECORDED[setting], "b": value}}
    assert f"- {setting}: a {RECORDED[setting]}, b {value}" in runs_document(found)
    assert found["pairs"]["b"]["settings"][setting] == value


def test_all_that_differs_is_named_at_once():
    other = predictions("A dog.").assign(prompt="What is it?")
    with pytest.raises(ValueError, match="differ") as refused:
        compared(run("a"), run("b", other, provenance(max_new_tokens=64)))
    assert "- max_new_tokens" in str(refused.value) and "- prompts" in str(refused.value)
    assert "allow_different: [max_new_tokens, prompts]" in str(refused.value)


def test_settings_of_a_decoding_that_is_not_compared_do_not_count():
    greedy = predictions("A dog.")
    greedy = greedy[greedy["decoding"] == "greedy"]
    compared(run("a", greedy), run("b", greedy, provenance(temperature=0.3, num_beams=2, samples_per_prompt=9)))


def test_a_decoding_that_not_every_run_has():
    greedy = predictions("A dog.")
    greedy = greedy[greedy["decoding"] == "greedy"]
    with pytest.raises(ValueError, match="- decodings: a greedy, sampled, b greedy"):
        compared(run("a"), run("b", greedy))
    found = compared(run("a"), run("b", greedy), allowed=["decodings"])
    assert list(found["pairs"]["b"]["base"]) == ["greedy"]
    beam = greedy.assign(decoding="beam")
    with pytest.raises(ValueError, match="no decoding is common"):
        compared(run("a", greedy), run("b", beam), allowed=["decodings"])


def test_what_is_not_known_is_refused_until_it_is_given():
    told = r"max_new_tokens: a 48, b \(not known\); give compare_runs.runs.b.settings.max_new_tokens"
    with pytest.raises(ValueError, match=told):
        compared(run("a"), run("b", record=None))
    with pytest.raises(ValueError, match=r"a \(not known\), b \(not known\)"):
        compared(run("a", record=None), run("b", record=None))
    given = {"max_new_tokens": 48, "temperature": 1.0, "samples_per_prompt": 1}
    assert compared(run("a"), run("b", record=None, settings=given))["differing"] == {}
    with pytest.raises(ValueError, match="a 48, b 64"):
        compared(run("a"), run("b", settings={"max_new_tokens": 64}))


def test_other_images_are_refused_or_those_in_common_are_compared():
    fewer = predictions("A dog and a cat.")
    fewer = fewer[fewer["image_id"] == "h0"]
    with pytest.raises(ValueError, match=r"- images: a [0-9a-f]{12}, b [0-9a-f]{12}"):
        compared(run("a", model="base"), run("b", fewer))
    found = compared(run("a", model="base"), run("b", fewer), allowed=["images"])
    assert found["left_out"] == {"a": 1}
    assert found["pairs"]["b"]["settings"]["samples"]["greedy"]["captions"] == 1
    assert "1 of a" in runs_document(found)
    elsewhere = fewer.assign(image_id="h2")
    with pytest.raises(ValueError, match="no image is common"):
        compared(run("a"), run("b", elsewhere), allowed=["images"])


def test_other_prompts_about_the_same_images():
    other = predictions("A dog and a cat.").assign(prompt="What is it?")
    found = compared(run("a", model="base"), run("b", other), allowed=["prompts"])
    assert found["pairs"]["b"]["change"]["greedy"]["chair_i"]["value"] == pytest.approx(-1 / 3)


def test_a_table_without_models_is_the_runs_own_and_may_hold_captions_alone():
    table = predictions("A dog and a cat.")
    own = table[table["model"] == "aligned"][["decoding", "image_id", "prompt", "response"]]
    found = compared(run("a", table), run("b", own))
    assert found["pairs"]["b"]["change"]["greedy"]["chair_i"]["value"] == 0


def test_tables_that_are_no_predictions():
    with pytest.raises(ValueError, match=r"'b' \(v1\) lack the columns \['decoding', 'response'\]"):
        run("b", predictions("A dog.").drop(columns=["decoding", "response"]))
    table = predictions("A dog.")
    with pytest.raises(ValueError, match=r"no predictions of the model 'base', but of \['aligned'\]"):
        run("b", table[table["model"] == "aligned"], model="base")
    empty = predictions("A dog.")
    empty["response"] = None
    with pytest.raises(ValueError, match=r"'a' .* and 'b' .* cannot be compared: .* no response"):
        compared(run("a"), run("b", empty))


def test_how_it_is_known_what_was_cut_off_counts_where_that_is_dropped():
    told = predictions("A dog. A cat and").assign(finish_reason="stop")
    compared(run("a", told), run("b"))
    params = PARAMS.model_copy(update={"drop_unfinished_sentence": True})
    runs = run("a", told, drop=True), run("b", drop=True)
    with pytest.raises(ValueError, match="- truncation_rule: a finish_reason, b sentence_end"):
        compared(*runs, params=params)
    compared(*runs, params=params, allowed=["truncation_rule"])


@pytest.mark.parametrize("count", [0, 1])
def test_one_run_is_no_comparison(count):
    with pytest.raises(ValueError, match=r"names\s+\d; for instance --params=compare_runs.runs.old="):
        compared(*[run("a")][:count])


def test_the_document_has_every_run_and_no_cell_that_ends_early():
    found = compared(run("first", model="base"), run("second"))
    found["runs"]["second"]["predictions"] = "data/a|b\nc.jsonl"
    document = runs_document(found)
    tables = [line for line in document.splitlines() if line.startswith("|")]
    assert "data/a\\|b c.jsonl" in document
    assert len({line.replace("\\|", "").count("|") for line in tables[:4]}) == 1
    assert "second − first" in document and "| CHAIR_i, % ↓ " in document
    assert "c0ffeec0ff" in document and "0.1.0, 2.13.0, 5.23.0" in document
    assert "Images with fewer false mentions than the first 1, with more 0, with as many 1." in document
