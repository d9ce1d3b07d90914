"""Models that come into the project: `pin` names the commit that is here, `convert` makes safetensors of pickles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import yaml

from fisao_pipeline.commands.export import in_project, refuse_to_overwrite
from fisao_pipeline.datasets.model_folder import ModelFolderDataset
from fisao_pipeline.models.source import ModelNotFoundError, ModelSource, cached_commit, find_model

ENTRIES = ("policy_backbone", "verifier")


def with_revision(text: str, entry: str, commit: str) -> str:
    """A catalog file with an entry's revision set, all else and every comment as it was.

    Raises:
        ValueError: The entry is not in it with a `hub_id` on a line of its own, or more than the revision would change.
    """
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if re.match(rf"{re.escape(entry)}:\s*(#.*)?$", line)), None)
    if start is None:
        raise ValueError(f"holds no block `{entry}:`")
    end = next((n for n in range(start + 1, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    block = range(start + 1, end)
    # One of digits alone would be a number.
    line = f"revision: {commit}\n" if yaml.safe_load(commit) == commit else f'revision: "{commit}"\n'
    old = next((n for n in block if re.match(r"\s+revision:", lines[n])), None)
    hub = next((n for n in block if re.match(r"\s+hub_id:", lines[n])), None)
    if hub is None:
        raise ValueError(f"names no `hub_id` in `{entry}`")
    indent = re.match(r"\s*", lines[hub])[0]  # type: ignore[index]
    if old is not None:
        lines[old] = f"{indent}{line}"
    else:
        lines.insert(hub + 1, f"{indent}{line}")
    changed = "".join(lines)
    before, after = yaml.safe_load(text), yaml.safe_load(changed)
    before[entry]["revision"] = commit
    if before != after:
        raise ValueError(f"cannot be changed in `{entry}` alone")
    return changed


def pin_entry(conf: Path, name: str, source: ModelSource) -> str:
    """Write the commit of the cached model into the catalog file of an environment that names it.

    Args:
        conf: The environment's folder.
        name: Catalog entry.
        source: What the entry means.

    Returns:
        What was done, for the user.

    Raises:
        ClickException: The model is not in the cache, or the entry has to be changed by hand.
    """
    from fisao_pipeline.datasets.publish import publish_in_place  # noqa: PLC0415 - slow to import

    commit = cached_commit(source.path_or_id, source.revision)
    if commit is None:
        try:
            find_model(source.path_or_id, source.revision)
        except ModelNotFoundError as error:
            raise click.ClickException(str(error)) from error
        raise click.ClickException(f"'{source.path_or_id}' is in no hub cache: it cannot be pinned.")
    if commit == source.revision:
        return f"{name}: {source.path_or_id} is pinned to {commit} already"
    reasons = []
    for file in sorted(conf.glob("catalog*.yml")):
        try:
            changed = with_revision(file.read_text(encoding="utf-8"), name, commit)
        except ValueError as error:
            reasons.append(f"{file.name} {error}")
            continue
        with publish_in_place(file) as staged:
            staged.write_text(changed, encoding="utf-8")
        return f"{name}: {source.path_or_id} pinned to {commit} in {file.parent.name}/{file.name}"
    raise click.ClickException(
        f"{name}: write `revision: {commit}` into its entry yourself ({'; '.join(reasons) or 'no catalog file there'})."
    )


@click.command()
@click.option("--env", default="local", show_default=True, help="The Kedro environment whose entries are pinned.")
def pin(env: str) -> None:
    """Write the commits of the downloaded models into the environment's catalog; it asks no network."""

    def write(catalog: Any) -> str:
        from kedro.utils import find_kedro_project  # noqa: PLC0415 - slow to import

        conf = Path(find_kedro_project(Path.cwd()), "conf", env)
        entries = {name: catalog.get(name) for name in ENTRIES}
        hub = {
            name: entry.source
            for name, entry in entries.items()
            if isinstance(entry, ModelFolderDataset) and not entry.is_folder
        }
        said = [pin_entry(conf, name, source) for name, source in hub.items()]
        said += [f"{name}: a folder, which is identified by its content" for name in entries if name not in hub]
        return "\n".join(said)

    click.echo(in_project(env, write))


@click.command()
@click.argument("model")
@click.option("--revision", default=None, help="Commit, branch or tag of a hub model.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
def convert(model: str, revision: str | None, output: Path) -> None:
    """Make safetensors of a model that was published as pickles (pytorch_model.bin), with its processor.

    MODEL is a folder, or a hub id that was downloaded. Pickles are read as data: one with more than tensors is refused.
    """
    from fisao_pipeline.datasets.publish import publish_in_place  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.converting import convert_to_safetensors  # noqa: PLC0415

    refuse_to_overwrite(output)
    output = output.absolute()
    try:
        with publish_in_place(output) as staged:
            staged.mkdir()
            count = convert_to_safetensors(ModelSource(model, revision), staged)
    except (ModelNotFoundError, ValueError) as error:
        raise click.ClickException(f"Nothing was written: {error}") from error
    click.echo(f"{output}: {count:,} parameters in safetensors")
