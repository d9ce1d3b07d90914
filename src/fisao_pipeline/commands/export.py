"""Adapters that leave the project: `python -m fisao_pipeline merge` and `export` write a folder of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from fisao_pipeline.datasets.preview import read_provenance

CARD, REPORT = "README.md", "report.html"


def refuse_to_overwrite(output: Path) -> None:
    """Refuse a place where something is.

    Raises:
        ClickException: The folder or file exists.
    """
    if output.exists() or output.is_symlink():
        raise click.ClickException(f"'{output}' exists and is never overwritten: give another --output, or remove it.")


def evaluated_adapter(catalog: Any) -> str | None:
    """The version of the adapter that the latest comparison is of; None where that cannot be told."""
    inputs = _inputs(catalog, "comparison")
    predictions = inputs.get("predictions")
    if predictions is None:
        return None
    return _inputs(catalog, "predictions", predictions).get("policy_adapter")


def export_adapter(catalog: Any, output: Path) -> str:
    """Copy the latest adapter; its card gets the evaluation's table and report if these are of this very adapter.

    Returns:
        What is in the card, for the user.

    Raises:
        DatasetError: There is no adapter yet.
    """
    from fisao_pipeline.benchmarks.comparison import format_table  # noqa: PLC0415 - slow to import
    from fisao_pipeline.datasets.publish import publish_in_place  # noqa: PLC0415

    folder = catalog.load("policy_adapter")
    version = catalog.get("policy_adapter").resolve_load_version()
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else None
    measured = card is not None and evaluated_adapter(catalog) == version
    report = None
    if card is not None and measured:
        report = evaluated_report(catalog)
        card = with_comparison(card, format_table(catalog.load("comparison")), report is not None)
    with publish_in_place(output) as staged:
        shutil.copytree(folder, staged)
        if card is not None:
            (staged / CARD).write_text(card, encoding="utf-8")
        if report is not None:
            (staged / REPORT).write_text(report, encoding="utf-8")
    if card is None:
        return f"adapter {version}, made before adapters had a card"
    return f"adapter {version}, its card " + (
        f"with the evaluation's table{' and report' if report is not None else ''}"
        if measured
        else "without evaluation: the latest comparison is not of this adapter"
    )


def evaluated_report(catalog: Any) -> str | None:
    """The latest report if it is of the latest comparison."""
    if "comparison" not in _inputs(catalog, "report"):
        return None
    latest = catalog.get("comparison").resolve_load_version()
    return catalog.load("report") if _inputs(catalog, "report")["comparison"] == latest else None


def with_comparison(card: str, table: str, reported: bool) -> str:
    """The card with the held-out table first under its heading "Before and after", and a link to the report."""
    if reported:
        table = f"{table.strip()}\n\nPictures, figures and where all this comes from: [{REPORT}]({REPORT})."
    heading = "## Before and after\n"
    before, found, after = card.partition(heading)
    if not found:
        return f"{card.rstrip()}\n\n{heading}\n{table.strip()}\n"
    return f"{before}{heading}\nOn held-out images:\n\n{table.strip()}\n{after.removeprefix(chr(10) + 'Not measured.')}"


def _inputs(catalog: Any, name: str, version: str | None = None) -> Mapping[str, Any]:
    from kedro.io import DatasetError  # noqa: PLC0415 - slow to import

    dataset = catalog.get(name)
    if dataset is None:
        return {}
    try:
        version = version or dataset.resolve_load_version()
        record = read_provenance(dataset.provenance_path(version)) if version else None
    except (DatasetError, AttributeError):
        return {}
    return (record or {}).get("inputs", {})


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@click.option("--env", default=None, help="The Kedro environment whose catalog names the models.")
def merge(output: Path, env: str | None) -> None:
    """Merge the latest adapter into its base model: a full model with its processor, in safetensors."""
    from fisao_pipeline.datasets.publish import publish_in_place  # noqa: PLC0415 - slow to import

    refuse_to_overwrite(output)
    # Before the project is entered, whose folder may be another.
    output = output.absolute()

    def write(catalog: Any) -> str:
        from fisao_pipeline.models.merging import merge_adapter  # noqa: PLC0415 - slow to import

        source, adapter = catalog.load("policy_backbone"), catalog.load("policy_adapter")
        with publish_in_place(output) as staged:
            staged.mkdir()
            kept = merge_adapter(source, adapter, staged)
        said = f"merged; {kept:,} parameters outside the language tower are the base model's"
        if source.quantization is not None:
            said += (
                f". The adapter was trained on {source.quantization} weights and is now in {source.dtype} ones, which "
                "answer a little differently: evaluate this model before you publish figures of it"
            )
        return said

    click.echo(f"{output}: {in_project(env, write)}")


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@click.option("--env", default=None, help="The Kedro environment whose catalog names the adapter.")
def export(output: Path, env: str | None) -> None:
    """Copy the latest adapter, its card completed by the evaluation; what was published stays as it is."""
    refuse_to_overwrite(output)
    output = output.absolute()
    click.echo(f"{output}: {in_project(env, lambda catalog: export_adapter(catalog, output))}")


def in_project(env: str | None, write: Callable[[Any], str]) -> str:
    """What a function answers that is given the catalog of an environment.

    Raises:
        ClickException: There is no project here, or the function refuses.
    """
    from kedro.io import DatasetError  # noqa: PLC0415 - slow to import

    from fisao_pipeline.commands.project import open_project  # noqa: PLC0415

    try:
        return write(open_project(env).catalog)
    except (DatasetError, ValueError, RuntimeError, ImportError) as error:
        raise click.ClickException(f"Nothing was written: {error}") from error
