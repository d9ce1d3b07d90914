"""The folder that an environment's artifacts are in."""

from __future__ import annotations

from pathlib import Path

from kedro.config import AbstractConfigLoader, MissingConfigException


def data_folder(config_loader: AbstractConfigLoader, project: Path) -> Path:
    """What `globals.yml` calls `data`, from the project's root; `data` where it does not say."""
    try:
        named = config_loader["globals"].get("data")
    except (MissingConfigException, KeyError):
        named = None
    return Path(project, named or "data")
