"""`python -m fisao_pipeline lineage`: the tree of how an artifact came about, down to what the first run was given."""

from __future__ import annotations

from pathlib import Path

import click
from kedro.io import DataCatalog

from fisao_pipeline.artifacts.ancestry import Version
from fisao_pipeline.artifacts.provenance import write_json
from fisao_pipeline.artifacts.tree import lines_of, tree_of
from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.suggestions import did_you_mean


def find_version(catalog: DataCatalog, asked: str) -> Version:
    """The artifact and version that `NAME` (the latest) or `NAME@VERSION` mean.

    Raises:
        ClickException: There is none of that name or version; what there is, is listed.
    """
    name, _, version = asked.partition("@")
    datasets = {name: data for name in catalog if isinstance(data := catalog.get(name), AtomicVersions)}
    if name not in datasets:
        made = [name for name, dataset in datasets.items() if dataset.versions()]
        listed = f"made so far: {', '.join(sorted(made))}" if made else "none is made so far"
        raise click.ClickException(f"There is no artifact '{name}'{did_you_mean(name, datasets)} ({listed}).")
    versions = datasets[name].versions()
    if not versions:
        raise click.ClickException(f"There is no version of {name} yet.")
    if version and version not in versions:
        listed = ", ".join(versions)
        raise click.ClickException(f"{name} has no version '{version}'{did_you_mean(version, versions)} (of {listed}).")
    return name, version or versions[-1]


@click.command()
@click.argument("artifact", metavar="ARTIFACT[@VERSION]")
@click.option("--env", default=None, help="The Kedro environment whose artifacts are looked at.")
@click.option("--images", is_flag=True, help="List the images of the manifest with their hashes.")
@click.option("--json", "output", type=click.Path(path_type=Path, dir_okay=False), help="Write the tree as JSON, too.")
def lineage(artifact: str, env: str | None, images: bool, output: Path | None) -> None:
    """Tell how an artifact came about: nodes, commits and runs, down to the hashes of images, annotations and models.

    The latest version is looked at where none is named.
    """
    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415 - slow to import

    # Before the project is entered, whose folder may be another.
    output = output.absolute() if output is not None else None
    catalog = open_project(env).catalog
    tree = tree_of(catalog, *find_version(catalog, artifact), images=images)
    for line in lines_of(tree):
        click.echo(line)
    if output is not None:
        try:
            write_json(output, tree)
        except OSError as error:
            raise click.ClickException(f"'{output}' cannot be written: {error.strerror}") from error
