"""What the records of the artifacts say together, and what does not agree."""

from tests.reporting.report_sources import record

from fisao_pipeline.reporting.lineage import Lineage, read_lineage

FIRST, SECOND = "2026-01-01T00.00.00.000Z", "2026-02-01T00.00.00.000Z"


def test_one_run_has_no_warning():
    found = read_lineage(
        [
            record("comparison", inputs={"predictions": FIRST}, parameters={"benchmark_evaluation.seed": 0}),
            record("predictions", inputs={"policy_backbone": "sha256:abc", "image_folder": None}),
        ]
    )
    assert found.warnings == []
    assert [one["dataset"] for one in found.artifacts] == ["comparison", "predictions"]
    assert found.commits == ["cccccccccc"]
    assert found.runs == ["a" * 32]
    assert found.libraries == {"torch": "2.13.0"}
    assert found.parameters == {"benchmark_evaluation": {"seed": "0"}}
    assert (found.sources, found.unversioned) == ({"policy_backbone": "sha256:abc"}, ["image_folder"])


def test_nothing_recorded():
    assert read_lineage([]) == Lineage([], [], [], {}, {}, {}, [], [])


def test_what_is_of_several_runs_is_said():
    found = read_lineage(
        [
            record("comparison", git_commit="d" * 40, libraries={"torch": "2.14.0"}),
            record("predictions", FIRST, parameters={"a.b": 1}, git_dirty=True),
            record("predictions", SECOND, parameters={"a.b": 2}, mlflow_run_id=None),
            record("policy_adapter", FIRST, node="train"),
            record("training_history", SECOND, node="train"),
        ]
    )
    told = "\n".join(found.warnings)
    assert f"The figures rest on several versions of predictions: {SECOND} and {FIRST}." in told
    assert f"training_history of {SECOND}, policy_adapter of {FIRST}" in told
    assert "Artifacts were made by 3 states of the code" in told
    assert "Files differed from the commit" in told
    assert "The library torch was not always the same" in told
    assert "The parameter a.b was not always the same: 2 and 1." in told
    assert found.parameters == {"a": {"b": "2 / 1"}}
    assert found.runs == ["a" * 32]


def test_each_warning_alone():
    same = [record("policy_adapter", node="train"), record("training_history", node="train")]
    assert read_lineage(same).warnings == []
    assert len(read_lineage([*same, record("comparison", git_commit=None)]).warnings) == 1
    assert len(read_lineage([*same, record("comparison", libraries={"torch": "2.14.0"})]).warnings) == 1
