"""`python -m fisao_pipeline deliver`: runs to the MLflow server that did not take all of them while they went on."""

from __future__ import annotations

from pathlib import Path

import click
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project

from fisao_pipeline.tracking.delivery import first_line


@click.command()
@click.option("--env", default=None, help="The environment whose runs are sent.")
def deliver(env: str | None) -> None:
    """Send runs to the MLflow server that did not take all of them while they went on."""
    root = find_kedro_project(Path.cwd())
    if root is None:
        raise click.ClickException("This is no Kedro project: run it in the project's folder.")
    bootstrap_project(root)
    with settings.SESSION_CLASS.create(project_path=root, env=env) as session:
        delivery = getattr(session.load_context(), "delivery", None)
    if delivery is None:
        raise click.ClickException("mlflow.yml names no server that runs are sent to.")
    done, error = delivery.deliver()
    click.echo(f"{len(done)} run{'' if len(done) == 1 else 's'} delivered{''.join(f' {run_id}' for run_id in done)}")
    if error is not None:
        raise click.ClickException(f"The rest still waits: {first_line(error)}")
