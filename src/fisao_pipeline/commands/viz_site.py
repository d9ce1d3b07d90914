"""`python -m fisao_pipeline viz-site`: the pipelines and all previews as a site of plain files."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
from kedro.utils import find_kedro_project


@click.command("viz-site")
@click.option("--env", default=None, help="The Kedro environment whose artifacts are shown.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build", "kedro-viz"),
    show_default=True,
    help="The site's folder; an earlier site in it is replaced.",
)
def viz_site(env: str | None, output: Path) -> None:
    """Write the pipelines and previews of all artifacts as a site of plain files, for any web server."""
    root, output = find_kedro_project(Path.cwd()), output.absolute()
    if root is None:
        raise click.ClickException("This is no Kedro project: run it in the project's folder.")
    with warnings.catch_warnings():
        # Remarks of Kedro-Viz's libraries on Kedro-Viz, which a user of this project can do nothing about.
        warnings.simplefilter("ignore")
        from fisao_pipeline.viz.site import build_site  # noqa: PLC0415 - slow to import

        build_site(root, env, output)
    click.echo(f"To see it: python -m http.server --bind 127.0.0.1 --directory {output}")
