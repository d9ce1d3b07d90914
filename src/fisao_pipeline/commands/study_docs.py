"""`python -m fisao_pipeline study-docs`: the latest ablation's table and images into the documentation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

IMAGES = {"ablation_image": "ablation_recall.png", "ablation_budget_image": "ablation_budget.png"}
BEGIN, END = "<!-- table -->", "<!-- /table -->"
NEW_PAGE = f"""# Ablation

![CHAIR_i over recall of every arm, greedy and sampled, with intervals over seeds.](images/ablation_recall.png)

![CHAIR_i and recall of the probe over sampled tokens, one line per method.](images/ablation_budget.png)

{BEGIN}
{END}
"""


def put_table(page: str, table: str) -> str:
    """The page with the table in place of what stands between its two markers.

    Raises:
        ValueError: The page does not have both markers, once and in their order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page needs one line '{BEGIN}' and after it one line '{END}', for the table between them")
    return f"{before}{BEGIN}\n{table.strip()}\n{END}{after}"


def update_docs(catalog: Any, docs: Path) -> list[Path]:
    """Write the table into `ablation.md`, which is made if it is not there, and the images into `images/`.

    Args:
        catalog: A project's catalog.
        docs: The folder of the documents.

    Returns:
        The files that were written.

    Raises:
        DatasetError: There is no ablation yet.
        ValueError: `ablation.md` has no place for the table, or table and images are of different runs.
    """
    table = catalog.load("ablation_table")
    datasets = {name: catalog.get(name) for name in ("ablation_table", *IMAGES)}
    versions = {name: dataset.resolve_load_version() for name, dataset in datasets.items()}
    if len(set(versions.values())) > 1:
        raise ValueError(f"table and images are of different runs ({versions}); run the ablation again to its end")
    page = docs / "ablation.md"
    text = put_table(page.read_text(encoding="utf-8") if page.exists() else NEW_PAGE, table)
    (docs / "images").mkdir(parents=True, exist_ok=True)
    written = [page]
    for name, file_name in IMAGES.items():
        source = datasets[name].provenance_path(versions[name]).with_name(file_name)
        written.append(Path(shutil.copyfile(source, docs / "images" / file_name)))
    page.write_text(text, encoding="utf-8")
    return written


@click.command()
@click.option("--env", default=None, help="The Kedro environment whose catalog names the ablation.")
def study_docs(env: str | None) -> None:
    """Copy the latest ablation's table and images into docs/."""
    from kedro.io import DatasetError  # noqa: PLC0415 - slow to import

    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415
    from fisao_pipeline.runs.resume import stage_command  # noqa: PLC0415

    project = open_project(env)
    try:
        written = update_docs(project.catalog, project.root / "docs")
    except DatasetError as error:
        command = stage_command({"env": env}, ["ablation"])
        raise click.ClickException(f"There is no ablation yet: `{command}` makes one. ({error})") from error
    except ValueError as error:
        raise click.ClickException(f"docs/ablation.md is as it was: {error}") from error
    click.echo("\n".join(path.relative_to(project.root).as_posix() for path in written))
