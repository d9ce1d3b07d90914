"""What an environment is called, and the folder that its artifacts are in."""

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


def environment_of(config_loader: AbstractConfigLoader) -> str:
    """The environment that a configuration is read for: the default one where none was named."""
    return config_loader.env or getattr(config_loader, "default_run_env", "")
