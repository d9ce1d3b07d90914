"""Runs that are made once more: the same, or not, and why."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from tests.runs.test_lineage import FORCED, only_run, provenance_of, run

from fisao_pipeline.artifacts.provenance import machine, seal
from fisao_pipeline.commands.cli import cli
from fisao_pipeline.commands.reproduce import code_fault
from fisao_pipeline.params.flat import flatten_parameters, nest_parameters

COMMIT = "c" * 40
GIVEN = {"block": {"ppo": {"clip_range": 0.5, "sizes": [7, 8]}, "note": "a, b: 1"}}


def commit(project):
    (project / ".gitignore").write_text("data/\n__pycache__/\n.viz/\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "change"]):
        subprocess.run([*git, *command], cwd=project, check=True)


def reproduce(*words):
    return CliRunner().invoke(cli, ["reproduce", *words])


def versions(project, name):
    return sorted(path.name for path in (project / "data" / name).iterdir())


def files(project, version):
    return {path: path.read_bytes() for path in (project / "data").rglob(f"{version}/*")}


@pytest.mark.parametrize("by", ["session", "mlflow"])
def test_the_same_comes_out_of_the_same(toy_project, mlflow_store, by):
    project = toy_project()
    commit(project)
    version = run(project, **GIVEN)
    before = files(project, version)
    done = reproduce(version if by == "session" else only_run(mlflow_store).info.run_id)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output
    content = provenance_of(project, "count.json", version)["content"]
    assert f"count  the same     {content}" in done.output
    assert "table  the same     sha256:" in done.output
    assert files(project, version) == before and len(before) == 4
    (new,) = set(versions(project, "count.json")) - {version}
    assert f"Made once more, as version {new}:" in done.output
    record = provenance_of(project, "count.json", new)
    assert record["parameters"]["block.ppo.sizes"] == [7, 8]
    assert record["inputs"] == {"table": new}


def test_what_the_run_found_there_is_read_again(toy_project, mlflow_store):
    """Not the latest version, which is another one by now; and nodes that the run left out are not run."""
    project = toy_project()
    commit(project)
    first = run(project)
    second = run(project, options={"node_names": ["count_rows"]})
    run(project, runtime=FORCED)
    tables = versions(project, "table.parquet")
    done = reproduce(second)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output
    assert versions(project, "table.parquet") == tables
    assert provenance_of(project, "count.json", versions(project, "count.json")[-1])["inputs"] == {"table": first}


def test_another_result_is_told(toy_project, mlflow_store):
    """What a node reads beside its inputs is in no record; the result tells."""
    project = toy_project()
    nodes = next(project.glob("src/*/nodes.py"))
    text = nodes.read_text()
    nodes.write_text(text.replace('{"rows": len(table)}', '{"rows": len(table), "seen": Path("data/n").read_text()}'))
    commit(project)
    (project / "data").mkdir()
    (project / "data" / "n").write_text("1")
    version = run(project)
    (project / "data" / "n").write_text("2")
    done = reproduce(version)
    assert done.exit_code == 1
    assert f"count  differs      {provenance_of(project, 'count.json', version)['content']} → sha256:" in done.output
    assert "table  the same " in done.output


def test_times_may_differ_and_other_columns_are_named(toy_project, mlflow_store):
    """Both at once, so that only the second run's table is another one."""
    project = toy_project()
    nodes = next(project.glob("src/*/nodes.py"))
    columns = '{"seconds": [time.time()] * 3, "drawn": Path("data/n").read_text(), "number"'
    nodes.write_text(nodes.read_text().replace('{"number"', columns))
    commit(project)
    (project / "data").mkdir()
    (project / "data" / "n").write_text("1")
    version = run(project)
    done = reproduce(version)
    assert done.exit_code == 0, done.output
    assert "table  the same     but for times (seconds)" in done.output
    (project / "data" / "n").write_text("2")
    done = reproduce(version)
    assert done.exit_code == 1
    assert done.output.partition("table  differs ")[2].splitlines()[0].endswith(", in seconds, drawn")
    assert "count  the same " in done.output


def test_a_node_that_names_its_run_is_not_compared(toy_project, mlflow_store):
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(
        catalog.read_text()
        + "lineage:\n  type: fisao_pipeline.datasets.LineageDataset\n"
        + "page:\n  type: fisao_pipeline.datasets.AtomicDataset\n  dataset: json.JSONDataset\n"
        + "  filepath: data/page.json\n  versioned: true\n"
    )
    nodes = next(project.glob("src/*/nodes.py"))
    added = '        Node(lambda count, lineage: lineage, ["count", "lineage"], "page", name="write"),\n    ])'
    nodes.write_text(nodes.read_text().replace("    ])", f"    {added}", 1))
    commit(project)
    done = reproduce(run(project))
    assert done.exit_code == 0, done.output
    assert "page   not compared: it names its run and versions, which are new" in done.output


def test_an_input_that_changed_is_named(toy_project, mlflow_store):
    raw = """
        table:
          type: fisao_pipeline.datasets.json_files.JsonFilesDataset
          filepath: data/raw.json
        count:
          type: fisao_pipeline.datasets.AtomicDataset
          dataset: json.JSONDataset
          filepath: data/count.json
          versioned: true
    """
    project = toy_project({"conf/base/catalog.yml": raw})
    nodes = next(project.glob("src/*/nodes.py"))
    made = '            Node(make_table, ["params:block"], "table", name="make_table"),\n'
    text = nodes.read_text()
    assert made.strip() in text
    nodes.write_text(text.replace(made.strip(), "").replace("len(table)}", "len(table[0][1])}"))
    commit(project)
    (project / "data").mkdir()
    (project / "data" / "raw.json").write_text("[1, 2]")
    version = run(project)
    assert reproduce(version).exit_code == 0
    (project / "data" / "raw.json").write_text("[1, 2, 3]")
    done = reproduce(version)
    assert done.exit_code == 1
    assert "Warning: count_rows: input table changed" in done.output
    assert "count  differs " in done.output


def test_other_code_is_refused_and_run_if_asked(toy_project, mlflow_store):
    project = toy_project()
    commit(project)
    version = run(project)
    nodes = next(project.glob("src/*/nodes.py"))
    nodes.write_text(nodes.read_text().replace("range(3)", "range(3, 6)"))
    recorded = provenance_of(project, "count.json", version)["git_commit"]
    refused = reproduce(version)
    assert refused.exit_code == 1
    assert "git stash --include-untracked\nNothing was run; --any-code goes on" in refused.output
    commit(project)
    refused = reproduce(version)
    assert refused.exit_code == 1
    assert f"git checkout {recorded}\nNothing was run" in refused.output
    assert versions(project, "count.json") == [version]
    done = reproduce(version, "--any-code")
    assert "Warning: make_table: code of " in done.output
    assert f"git checkout {recorded}" in done.output


def test_code_of_another_place_is_refused_with_its_place(toy_project, mlflow_store, monkeypatch, tmp_path):
    project = toy_project()
    commit(project)
    version = run(project)
    code = tmp_path / "other" / "fisao_pipeline"
    monkeypatch.setattr("fisao_pipeline.artifacts.provenance.CODE", code)
    refused = reproduce(version)
    assert refused.exit_code == 1
    assert (
        f"The code that runs is that of '{tmp_path / 'other' / 'fisao_pipeline'}', not of the commit" in refused.output
    )
    assert "Nothing was run" in refused.output and "git stash" not in refused.output


@pytest.mark.parametrize(
    ("record", "now", "said"),
    [
        ((COMMIT, False), (COMMIT, False), None),
        ((COMMIT, False), (COMMIT, True), "Files differ from the commit that is checked out"),
        ((COMMIT, True), (COMMIT, False), "Files differed from commit cccccccccc"),
        ((COMMIT, False), ("d" * 40, False), f"git checkout {COMMIT}"),
        ((COMMIT, False), (None, None), f"git checkout {COMMIT}"),
        ((None, None), (COMMIT, False), "outside a repository"),
    ],
)
def test_whether_the_code_is_that_of_the_run(record, now, said):
    fault = code_fault(dict(zip(("git_commit", "git_dirty"), record, strict=True)), now)
    assert fault == said if said is None else said in fault


def change(project, name, version, **fields):
    path = project / "data" / name / version / "provenance.json"
    record = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(record | {"seal": seal(record)}))


def test_other_libraries_are_warned_of(toy_project, mlflow_store):
    project = toy_project()
    commit(project)
    version = run(project)
    for name in ("count.json", "table.parquet"):
        change(project, name, version, libraries={"torch": "1.0"})
    done = reproduce(version)
    assert done.exit_code == 0
    assert "Warning: library torch 1.0 → " in done.output and "Warning: library numpy (none) → " in done.output


def test_what_is_gone_or_no_run_is_refused(toy_project, mlflow_store):
    project = toy_project()
    commit(project)
    first = run(project)
    second = run(project, options={"node_names": ["count_rows"]})
    unknown = reproduce(second[:-1])
    assert unknown.exit_code == 1
    assert f"Nothing is there that run '{second[:-1]}' made; did you mean '{second}'?" in unknown.output
    path = project / "data" / "count.json" / second / "provenance.json"
    whole = path.read_text()
    path.write_text(whole.replace("count_rows", "count_cows"))
    assert "count of this run cannot be relied on: provenance.json was edited." in reproduce(second).output
    path.write_text(whole)
    change(project, "count.json", second, node="former")
    assert "No pipeline has all nodes of this run: former missing." in reproduce(second).output
    path.write_text(whole)
    shutil.rmtree(project / "data" / "table.parquet" / first)
    gone = reproduce(second)
    assert gone.exit_code == 1
    assert f"The run read table {first}, which is gone" in gone.output
    assert versions(project, "count.json") == [first, second]


@pytest.mark.parametrize("by", ["session", "mlflow"])
def test_an_edited_record_is_not_passed_over(toy_project, mlflow_store, by):
    """The other artifact of the run is whole, and would be the same."""
    project = toy_project()
    commit(project)
    version = run(project)
    path = project / "data" / "count.json" / version / "provenance.json"
    path.write_text(path.read_text().replace("count_rows", "count_cows"))
    done = reproduce(version if by == "session" else only_run(mlflow_store).info.run_id)
    assert done.exit_code == 1
    assert "count of this run cannot be relied on: provenance.json was edited." in done.output
    assert versions(project, "table.parquet") == [version]


def test_an_edited_record_of_another_run_is_none_of_this_ones(toy_project, mlflow_store):
    project = toy_project()
    commit(project)
    version = run(project)
    mlflow_run = only_run(mlflow_store).info.run_id
    other = run(project, runtime=FORCED)
    path = project / "data" / "count.json" / other / "provenance.json"
    path.write_text(path.read_text().replace("count_rows", "count_cows"))
    done = reproduce(mlflow_run)
    assert done.exit_code == 0, done.output
    assert versions(project, "table.parquet")[:2] == [version, other]


def test_what_is_made_beside_and_was_removed_is_said(toy_project, mlflow_store):
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(
        catalog.read_text()
        + "extra:\n  type: fisao_pipeline.datasets.AtomicDataset\n  dataset: json.JSONDataset\n"
        + "  filepath: data/extra.json\n  versioned: true\n"
    )
    nodes = next(project.glob("src/*/nodes.py"))
    text = nodes.read_text().replace('"count", name=', '["count", "extra"], name=')
    nodes.write_text(text.replace('return {"rows": len(table)}', 'return {"rows": len(table)}, ["extra"]'))
    commit(project)
    version = run(project)
    shutil.rmtree(project / "data" / "extra.json" / version)
    done = reproduce(version)
    assert done.exit_code == 0, done.output
    assert "extra  not compared: the run's own is gone" in done.output
    assert "count  the same " in done.output


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_later_stage_that_was_never_run_is_no_part_of_it(toy_project, mlflow_store, is_whole):
    """Its last node removes what it has left and reads, beside its own, an artifact of the stage that is run again."""
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(
        catalog.read_text()
        + "late:\n  type: fisao_pipeline.datasets.AtomicDataset\n  dataset: json.JSONDataset\n"
        + "  filepath: data/late.json\n  versioned: true\n"
    )
    nodes = next(project.glob("src/*/nodes.py"))
    last = 'Node(lambda count: [1], "count", "late", name="last")'
    clean = 'Node(lambda late, table: Path("data/cleaned").touch(), ["late", "table"], None, name="clean")'
    added = f"        {last},\n            {clean},\n    ])"
    nodes.write_text(nodes.read_text().replace("    ])", f"    {added}", 1))
    commit(project)
    version = run(project, options={} if is_whole else {"node_names": ["make_table"]})
    cleaned = project / "data" / "cleaned"
    cleaned.unlink(missing_ok=True)
    done = reproduce(version)
    assert done.exit_code == 0, done.output
    assert "table  the same " in done.output
    assert cleaned.exists() is is_whole
    assert (project / "data" / "late.json").exists() is is_whole


def test_what_keeps_one_version_is_not_replaced(toy_project, mlflow_store):
    project = toy_project()
    catalog = project / "conf" / "base" / "catalog.yml"
    catalog.write_text(f"{catalog.read_text()}extra:\n  type: json.JSONDataset\n  filepath: data/extra.json\n")
    nodes = next(project.glob("src/*/nodes.py"))
    text = nodes.read_text().replace('"count", name=', '["count", "extra"], name=')
    nodes.write_text(text.replace('return {"rows": len(table)}', 'return {"rows": len(table)}, "extra"'))
    commit(project)
    version = run(project)
    result = reproduce(version)
    assert result.exit_code == 1
    assert "extra has no versions: making it once more would replace what is there." in result.output
    assert versions(project, "count.json") == [version]


def test_parameters_there_and_back():
    nested = {"block": {"ppo": {"clip_range": 0.2, "sizes": [1, 2], "none": None}, "note": "a.b"}, "flag": True}
    flat = flatten_parameters({f"params:{name}": value for name, value in nested.items()})
    assert nest_parameters(flat) == nested
    assert nest_parameters({"hub.token": "***", "hub.url": "https://***@host/x", "hub.id": 1}) == {"hub": {"id": 1}}


def test_a_process_without_torch_has_no_device(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert machine() == {"device": None, "threads": None}


def test_another_device_or_number_of_threads_is_warned_of(toy_project, mlflow_store):
    """Told after the run, by what was computed on; a record of before there were such fields tells nothing."""
    import torch

    project = toy_project()
    commit(project)
    version = run(project)
    record = provenance_of(project, "count.json", version)
    assert record["environment"] == "local" and record["threads"] == torch.get_num_threads()
    assert record["device"] == f"CPU {torch.backends.cpu.get_cpu_capability()}"
    elsewhere = {"environment": "smoke", "device": "NVIDIA H100 80GB HBM3", "threads": record["threads"] + 7}
    change(project, "count.json", version, **elsewhere)
    old = provenance_of(project, "table.parquet", version)
    for key in elsewhere:
        del old[key]
    place = project / "data" / "table.parquet" / version / "provenance.json"
    place.write_text(json.dumps(old | {"seal": seal(old)}))
    done = reproduce(version)
    assert done.exit_code == 0, done.output
    warnings = [line for line in done.output.splitlines() if line.startswith("Warning: ")]
    assert warnings == [
        f"Warning: device NVIDIA H100 80GB HBM3 → {record['device']}",
        "Warning: environment smoke → local",
        f"Warning: threads {record['threads'] + 7} → {record['threads']}",
    ]
