"""`python -m fisao_pipeline show`: what the latest evaluation found, base against aligned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fisao_pipeline.benchmarks.comparison import format_table

if TYPE_CHECKING:
    from kedro.io import DataCatalog

NEXT_STEPS = """
Pictures, figures, lineage:    {report}
Runs, parameters and metrics:  kedro mlflow ui   then http://127.0.0.1:5000
Pipelines and artifacts:       kedro viz run     then http://127.0.0.1:4141
(after `source .venv/bin/activate`; or `make mlflow` and `make viz`)"""


def newest_report(catalog: DataCatalog) -> Path | None:
    """Where the newest `report` of a catalog is, None before there is one."""
    report = catalog.get("report")
    version = report.resolve_load_version() if report.exists() else None
    return report.version_path(version) if version else None


@click.command()
@click.option("--env", default=None, help="The Kedro environment whose catalog names the comparison.")
def show(env: str | None) -> None:
    """Print the latest comparison of base and aligned model."""
    from kedro.io import DatasetError  # noqa: PLC0415 - slow to import

    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415
    from fisao_pipeline.runs.resume import stage_command  # noqa: PLC0415

    try:
        catalog = open_project(env).catalog
        comparison, report = catalog.load("comparison"), newest_report(catalog)
    except DatasetError as error:
        command = stage_command({"env": env}, ["benchmark_evaluation"])
        raise click.ClickException(f"There is no comparison yet: `{command}` makes one. ({error})") from error
    click.echo(format_table(comparison))
    click.echo(NEXT_STEPS.format(report=report or "no report yet"))
