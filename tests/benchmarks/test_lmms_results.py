"""What lmms-eval writes, read back and compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.lmms_results import compare_tasks, format_tasks, read_results

QUICK = BootstrapSettings(n_resamples=200)
TOLD = {"harness": "lmms-eval 0.7.3", "harness_model": "llava_hf", "model_args": "device_map=cpu", "limit": None}


def written(folder: Path, right: list[int], answers: list[str] | None = None, mme: float = 1500.0, tokens=16) -> Path:
    """The files of a run with one task of which the figures are known."""
    folder.mkdir(parents=True)
    entries = {"alias": "gqa", "exact_match,none": sum(right) / len(right), "exact_match_stderr,none": 0.1}
    entries |= {"mme_score,none": mme, "mme_score_stderr,none": "N/A", "exact_match,strict": 0.25, "f1,none": 0.9}
    report = {
        "results": {"gqa": entries, "a_group": {"alias": "a_group", " ": " "}},
        "configs": {"gqa": {"generation_kwargs": {"max_new_tokens": tokens}, "test_split": "test"}},
        "versions": {"gqa": 0.0},
        "higher_is_better": {"gqa": {"exact_match": True, "mme_score": True}},
    }
    (folder / "20260101_results.json").write_text(json.dumps(report))
    said = answers or ["yes"] * len(right)
    rows = [
        {"doc_id": number, "doc_hash": f"h{number}", "exact_match": float(hit), "filtered_resps": [text]}
        | {"mme_score": {"score": hit, "category": "color"}, "f1": float(hit)}
        for number, (hit, text) in enumerate(zip(right, said, strict=True))
    ]
    (folder / "20260101_samples_gqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


@pytest.fixture
def comparison(tmp_path):
    results = {
        "base": read_results(written(tmp_path / "base" / "model", [1, 0, 0, 0], ["", " ", "no", "yes"])),
        "aligned": read_results(written(tmp_path / "aligned" / "model", [1, 1, 0, 1], mme=1530.0)),
    }
    return compare_tasks(results, TOLD, QUICK)


def test_figures_are_lmms_evals_and_means_have_paired_intervals(comparison):
    base, aligned, change = (comparison[part]["gqa"] for part in ("base", "aligned", "change"))
    assert (base["exact_match"]["value"], aligned["exact_match"]["value"]) == (0.25, 0.75)
    assert change["exact_match"]["value"] == 0.5 and change["exact_match_relative"]["value"] == 2.0
    assert change["exact_match"]["low"] >= 0, "no question is answered worse, so no resample is"
    assert set(base) == {"exact_match", "mme_score", "exact_match,strict", "f1"}, "errors and words are no figures"


def test_what_is_no_mean_over_questions_has_no_interval_and_that_is_said(comparison):
    assert comparison["change"]["gqa"]["mme_score"] == {"value": 30.0, "low": None, "high": None}
    assert comparison["base"]["gqa"]["exact_match,strict"]["low"] is None
    assert comparison["base"]["gqa"]["f1"] == {"value": 0.9, "low": None, "high": None}, (
        "has values, and no mean of them"
    )
    noted = "gqa: no interval of mme_score, exact_match,strict, f1, which is no mean over questions"
    assert comparison["notes"] == [noted]


def test_settings_stand_beside_the_figures(comparison):
    assert comparison["settings"]["tasks"]["gqa"] == {
        "version": 0.0,
        "test_split": "test",
        "generation_kwargs": {"max_new_tokens": 16},
        "questions": 4,
        "empty_answers": {"base": 2, "aligned": 0},
    }
    assert comparison["settings"]["harness"] == "lmms-eval 0.7.3"
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison
    table = format_tasks(comparison)
    assert "| gqa  | 4         | exact_match ↑" in table and "Settings: llava_hf (device_map=cpu)." in table
    assert "first 5 questions" in format_tasks({**comparison, "settings": {**comparison["settings"], "limit": 5}})


def test_models_that_were_not_asked_the_same_are_refused(tmp_path):
    base = read_results(written(tmp_path / "base" / "m", [1, 0]))
    longer = read_results(written(tmp_path / "longer" / "m", [1, 0], tokens=64))
    more = read_results(written(tmp_path / "more" / "m", [1, 0, 1]))
    for other, what in ((longer, "settings"), (more, "questions")):
        with pytest.raises(ValueError, match=f"gqa: base and aligned were not asked the same: their {what} differ"):
            compare_tasks({"base": base, "aligned": other}, TOLD, QUICK)
    with pytest.raises(ValueError, match=r"measured \['gqa'\] of base and \[\] of aligned"):
        compare_tasks({"base": base, "aligned": {}}, TOLD, QUICK)


def test_a_folder_without_figures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wrote 0 files of results"):
        read_results(tmp_path)
    (tmp_path / "1_results.json").write_text(json.dumps({"results": {"gqa": {"alias": "gqa"}}, "configs": {}}))
    with pytest.raises(ValueError, match="measured nothing"):
        read_results(tmp_path)
