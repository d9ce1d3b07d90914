"""`python -m fisao_pipeline reproduce`: makes once more what a run made, and tells whether it is the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from kedro.framework.project import settings
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from fisao_pipeline.artifacts.evidence import EvidenceOf, is_kept, version_of
from fisao_pipeline.artifacts.file_memory import FileMemory
from fisao_pipeline.artifacts.provenance import BrokenRecordError, foreign_code, git_state, read_record
from fisao_pipeline.commands.project import Project, open_project
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.keyed_folder import KeyedFolderDataset
from fisao_pipeline.datasets.lineage import LineageDataset
from fisao_pipeline.libraries import library_versions
from fisao_pipeline.params.flat import nest_parameters
from fisao_pipeline.runs.preflight import registered_pipelines
from fisao_pipeline.suggestions import did_you_mean

# Columns of tables that tell how long something took.
MEASURED = frozenset({"seconds", "tokens_per_second"})
Records = Mapping[str, Mapping[str, Any]]
"""By catalog name, the `provenance.json` of what one run made."""


@dataclass(frozen=True)
class Plan:
    """How a run is made once more.

    Attributes:
        pipeline_name: A registered pipeline that holds all of its nodes.
        pipeline: Those nodes, and the ones that hand them something in memory.
        parameters: What they were given, nested.
        load_versions: Of inputs that the run found there.
    """

    pipeline_name: str
    pipeline: Pipeline
    parameters: Mapping[str, Any]
    load_versions: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What came of an artifact.

    Attributes:
        name: Catalog name.
        agrees: Whether its content is the recorded one, but for times; None where that cannot be told.
        content: That of the new version.
        columns: Of a table whose content is another one, the columns that differ.
        untold: Why it cannot be told; empty where it can.
    """

    name: str
    agrees: bool | None
    content: str
    columns: tuple[str, ...] = ()
    untold: str = ""


def made_by(catalog: DataCatalog, run_id: str) -> Records:
    """Records of what is still there of a run.

    Args:
        catalog: Of the environment that it ran in.
        run_id: Of the run in MLflow, or of the Kedro session, which is the version of all that it saved.

    Raises:
        ClickException: There is nothing, a record cannot be relied on, or several sessions ran in one MLflow run.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    sessions: set[str] = set()
    broken: dict[str, str] = {}
    for name, place in _records(catalog):
        try:
            record = read_record(place) or {}
        except BrokenRecordError as error:
            # Whose it is, its place alone tells: a version has the name of its session.
            broken.setdefault(place.parent.name, f"{name} of this run cannot be relied on: {error}.")
            continue
        session = record.get("kedro_session_id")
        sessions.add(str(session))
        if run_id in (session, record.get("mlflow_run_id")):
            found.setdefault(str(session), {})[name] = record
    unreliable = [broken[session] for session in sorted({run_id, *found} & broken.keys())]
    if unreliable:
        raise click.ClickException("\n".join(unreliable))
    if not found:
        raise click.ClickException(
            f"Nothing is there that run '{run_id}' made{did_you_mean(run_id, sessions)}: its artifacts were removed, "
            "are of another --env, or it is no id of a run (see `lineage`)."
        )
    if len(found) > 1:
        raise click.ClickException(f"Several sessions ran in this MLflow run, name one: {', '.join(sorted(found))}.")
    (records,) = found.values()
    for name, record in records.items():
        if "fingerprint" not in record:
            release = (record.get("libraries") or {}).get("fisao-pipeline", "?")
            raise click.ClickException(
                f"{name} was made by release {release}, which did not record what it depends on."
            )
    return records


def _records(catalog: DataCatalog) -> Iterator[tuple[str, Path]]:
    for name in catalog:
        dataset = catalog.get(name)
        versions = dataset.versions() if isinstance(dataset, AtomicVersions) else [None]
        for version in versions:
            place = getattr(dataset, "provenance_path", lambda _version: None)(version)
            if place is not None:
                yield name, place


def code_fault(record: Mapping[str, Any], now: tuple[str | None, bool | None]) -> str | None:
    """Why the code that is checked out may not be that of a run, and what to do; None where it is.

    Args:
        record: Of something that the run made.
        now: Commit and whether files differ from it, as `git_state` gives them.
    """
    commit, dirty = now
    recorded = record.get("git_commit")
    if recorded is None:
        return "The run was made outside a repository: nobody can tell its code."
    if commit != recorded:
        return f"The run was made by commit {recorded[:10]}, and that is not checked out: git checkout {recorded}"
    if dirty:
        return "Files differ from the commit that is checked out: git stash --include-untracked"
    if record.get("git_dirty"):
        return (
            f"Files differed from commit {recorded[:10]} when the run was made, so the commit is not all of its code."
        )
    return None


def _foreign(root: Path) -> str | None:
    code = foreign_code(root)
    return None if code is None else f"The code that runs is that of '{code}', not of the commit that is checked out."


def plan(project: Project, records: Records) -> Plan:
    """What has to be run, with what, so that these artifacts are made once more.

    Raises:
        ClickException: No pipeline has all of the nodes, something would be replaced, or an input is gone.
    """
    nodes = {record["node"] for record in records.values()}
    name, registered = _holding(nodes)
    chosen = _with_makers(registered, nodes, project.catalog)
    for output in sorted(chosen.all_outputs()):
        dataset = project.catalog.get(output)
        versioned = isinstance(dataset, AtomicVersions) and version_of(dataset, "resolve_save_version") is not None
        if is_kept(output, project.catalog) and not versioned:
            raise click.ClickException(f"{output} has no versions: making it once more would replace what is there.")
    pinned = dict(_pinned(project.catalog, records, chosen.all_outputs()))
    flat = {key: value for record in records.values() for key, value in record["parameters"].items()}
    return Plan(name, chosen, nest_parameters(flat), pinned)


def _holding(nodes: set[str]) -> tuple[str, Pipeline]:
    registered = registered_pipelines()
    lacking = {name: nodes - {node.name for node in pipeline.nodes} for name, pipeline in registered.items()}
    name = min(lacking, key=lambda name: (len(lacking[name]), name != "__default__"))
    if lacking[name]:
        raise click.ClickException(
            f"No pipeline has all nodes of this run: {', '.join(sorted(lacking[name]))} missing."
        )
    return name, registered[name]


def _with_makers(pipeline: Pipeline, nodes: set[str], catalog: DataCatalog) -> Pipeline:
    makers = {name: node for node in pipeline.nodes for name in node.outputs if not is_kept(name, catalog)}
    waiting = [node for node in pipeline.nodes if node.name in nodes]
    wanted = set(waiting)
    while waiting:
        more = {makers[name] for name in waiting.pop().inputs if name in makers} - wanted
        waiting += more
        wanted |= more
    # What cleans up after them or checks them leaves no record. It may read nothing beside what they read or make: what
    # another stage makes need not be there, and what another stage has left is not theirs to remove.
    made = {name for node in wanted for name in node.outputs}
    touched = made.union(*(node.inputs for node in wanted))
    wanted |= {
        node
        for node in pipeline.nodes
        if not node.outputs and made & set(node.inputs) and touched.issuperset(node.inputs)
    }
    return pipeline.filter(node_names=sorted(node.name for node in wanted))


def _pinned(catalog: DataCatalog, records: Records, made: set[str]) -> Iterator[tuple[str, str]]:
    inputs = {pair for record in records.values() for pair in record["inputs"].items() if pair[1] is not None}
    for name, version in sorted(inputs):
        dataset = catalog.get(name)
        if name in made or not isinstance(dataset, AtomicVersions):
            continue
        if version not in dataset.versions():
            raise click.ClickException(f"The run read {name} {version}, which is gone: it was pruned or deleted.")
        yield name, version


def remarks(project: Project, records: Records, again: Plan) -> Iterator[str]:
    """In words, what is not as it was and may be why something comes out otherwise.

    Args:
        project: With the plan's parameters.
        records: Of what the run made.
        again: The plan.
    """
    gather = EvidenceOf(again.pipeline, project.catalog, FileMemory(project.data))
    told = set()
    for node in again.pipeline.nodes:
        record = next((record for record in records.values() if record["node"] == node.name), None)
        if record is not None:
            evidence = gather.of(node)
            contents = {name: _content(name, record, again, gather, project.catalog) for name in evidence.contents}
            told |= {f"{node.name}: {each}" for each in replace(evidence, contents=contents).differences(record)}
    yield from sorted(told)
    for name in sorted(again.pipeline.inputs()):
        dataset = project.catalog.get(name)
        if isinstance(dataset, KeyedFolderDataset) and dataset.load().keys():
            yield f"values in {name} are taken as they are and not made once more"
    before, now = next(iter(records.values()))["libraries"], library_versions()
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"library {name} {before.get(name, '(none)')} → {now.get(name, '(none)')}"


def elsewhere(project: Project, records: Records, version: str) -> Iterator[str]:
    """In words, where artifacts were computed otherwise than before: environment, device and number of threads.

    Known once the run is over: a device is what was computed on, not what there is. What a record lacks is passed over.

    Args:
        project: Whose catalog finds the new versions.
        records: Of the run.
        version: What came of running it again.
    """
    told = set()
    for name, record in records.items():
        made = read_record(project.catalog.get(name).provenance_path(version)) or {}
        for key in ("environment", "device", "threads"):
            before, now = record.get(key), made.get(key)
            if before is not None and now is not None and before != now:
                told.add(f"{key} {before} → {now}")
    yield from sorted(told)


def _content(name: str, record: Mapping[str, Any], again: Plan, gather: EvidenceOf, catalog: DataCatalog) -> str | None:
    """The content that a node is going to read; where the run itself makes it, the recorded one is expected."""
    if name in again.pipeline.all_outputs():
        return record["input_contents"].get(name)
    if name not in again.load_versions:
        return gather.content(name)
    dataset = catalog.get(name)
    try:
        return dataset.content(gather.memory.sha256, at=dataset.version_path(again.load_versions[name]))
    except OSError:
        return None


def run_again(project: Project, env: str | None, again: Plan) -> str:
    """Run it; returns the new version."""
    given = dict(again.parameters)
    with settings.SESSION_CLASS.create(project_path=project.root, env=env, runtime_params=given) as session:
        names = [node.name for node in again.pipeline.nodes]  # and so are run, fresh or not
        session.run(pipeline_names=[again.pipeline_name], node_names=names, load_versions=dict(again.load_versions))
        return session.session_id


def outcomes(project: Project, records: Records, again: Plan, version: str) -> Iterator[Outcome]:
    """Whether each artifact of a run is what it was.

    Args:
        project: Whose catalog finds the new versions.
        records: Of the run.
        again: How it was run again.
        version: What came of that.
    """
    tell_their_run = {
        name
        for node in again.pipeline.nodes
        for name in node.outputs
        if any(isinstance(project.catalog.get(read), LineageDataset) for read in node.inputs)
    }
    for name in (name for node in again.pipeline.nodes for name in node.outputs if is_kept(name, project.catalog)):
        record, dataset = records.get(name), project.catalog.get(name)
        made = read_record(dataset.provenance_path(version))
        content = made["content"] if made is not None else "not made"
        if record is None:
            yield Outcome(name, None, content, untold="the run's own is gone")
        elif name in tell_their_run:
            yield Outcome(name, None, content, untold="it names its run and versions, which are new")
        elif made is None or content == record["content"]:
            yield Outcome(name, made is not None, content)
        else:
            columns = _differing_columns(dataset.version_path(record["version"]), dataset.version_path(version))
            yield Outcome(name, bool(columns) and MEASURED.issuperset(columns), content, columns)


def _differing_columns(before: Path, now: Path) -> tuple[str, ...]:
    """Of two parquet files, which columns do not hold the same; none for other files."""
    if now.suffix != ".parquet":
        return ()
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to import

    tables = [pq.read_table(path) for path in (before, now)]
    told = [{name: repr(table[name].to_pylist()) for name in table.column_names} for table in tables]
    names = dict.fromkeys([*told[0], *told[1]])
    return tuple(name for name in names if told[0].get(name) != told[1].get(name))


def lines_of(found: Sequence[Outcome], records: Records) -> Iterator[str]:
    """Outcomes as text."""
    width = max(len(outcome.name) for outcome in found)
    for outcome in found:
        before, columns = records.get(outcome.name, {}).get("content"), ", ".join(outcome.columns)
        if outcome.agrees is None:
            said = f"not compared: {outcome.untold}"
        elif outcome.agrees:
            said = "the same     " + (f"but for times ({columns})" if columns else outcome.content)
        else:
            said = f"differs      {before} → {outcome.content}" + (f", in {columns}" if columns else "")
        yield f"{outcome.name:<{width}}  {said}"


@click.command()
@click.argument("run_id")
@click.option("--env", default=None, help="The Kedro environment that the run was in.")
@click.option("--any-code", is_flag=True, help="Go on with other code than the run's commit.")
def reproduce(run_id: str, env: str | None, any_code: bool) -> None:
    """Run what a run ran, with its parameters and inputs, and compare: exit status 1 where an artifact differs.

    RUN_ID is that of MLflow, or the version that its artifacts have. These stay, what is made is a new version.
    """
    project = open_project(env)
    records = made_by(project.catalog, run_id)
    again = plan(project, records)
    project = open_project(env, again.parameters)
    fault = _foreign(project.root) or code_fault(next(iter(records.values())), git_state(project.root))
    if fault is not None and not any_code:
        raise click.ClickException(f"{fault}\nNothing was run; --any-code goes on with the code as it is.")
    for remark in [*([fault] if fault else []), *remarks(project, records, again)]:
        click.echo(f"Warning: {remark}", err=True)
    version = run_again(project, env, again)
    for remark in elsewhere(project, records, version):
        click.echo(f"Warning: {remark}", err=True)
    found = list(outcomes(project, records, again, version))
    click.echo(f"\nMade once more, as version {version}:")
    for line in lines_of(found, records):
        click.echo(line)
    if any(outcome.agrees is False for outcome in found):
        raise click.exceptions.Exit(1)
