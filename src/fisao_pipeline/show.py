"""What the latest evaluation found: `python -m fisao_pipeline.show` prints base against aligned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fisao_pipeline.benchmarks.comparison import format_table

NEXT_STEPS = """
Pictures, figures, lineage:    {report}
Runs, parameters and metrics:  kedro mlflow ui   then http://127.0.0.1:5000
Pipelines and artifacts:       kedro viz run     then http://127.0.0.1:4141
(after `source .venv/bin/activate`; or `make mlflow` and `make viz`)"""


def latest_evaluation(project: Path, env: str | None = None) -> tuple[dict[str, Any], Path | None]:
    """Load the newest `comparison` of a Kedro project, and say where its newest `report` is, if there is one.

    Raises:
        DatasetError: If there is none yet.
    """
    from kedro.framework.session import KedroSession  # noqa: PLC0415 - slow to import
    from kedro.framework.startup import bootstrap_project  # noqa: PLC0415

    bootstrap_project(project)
    with KedroSession.create(project_path=project, env=env) as session:
        catalog = session.load_context().catalog
        report = catalog.get("report")
        version = report.resolve_load_version() if report.exists() else None
        return catalog.load("comparison"), report.version_path(version) if version else None


@click.command()
@click.option("--env", default=None, help="The Kedro environment whose catalog names the comparison.")
def main(env: str | None) -> None:
    """Print the latest comparison of base and aligned model."""
    from kedro.io import DatasetError  # noqa: PLC0415
    from kedro.utils import find_kedro_project  # noqa: PLC0415

    from fisao_pipeline.resume import stage_command  # noqa: PLC0415

    project = find_kedro_project(Path.cwd())
    if project is None:
        raise click.ClickException("This is no Kedro project: run it in the project's folder.")
    try:
        comparison, report = latest_evaluation(project, env)
    except DatasetError as error:
        command = stage_command({"env": env}, ["benchmark_evaluation"])
        raise click.ClickException(f"There is no comparison yet: `{command}` makes one. ({error})") from error
    click.echo(format_table(comparison))
    click.echo(NEXT_STEPS.format(report=report or "no report yet"))


if __name__ == "__main__":
    main()
