"""The project as a command that runs nothing sees it: catalog, pipelines and data folder, without MLflow or hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from kedro.framework.hooks.markers import HOOK_NAMESPACE
from kedro.framework.hooks.specs import DataCatalogSpecs
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.utils import find_kedro_project
from omegaconf import OmegaConf
from pluggy import PluginManager
from pydantic import ValidationError

from fisao_pipeline.artifacts.data_folder import data_folder
from fisao_pipeline.runs.preflight import registered_pipelines
from fisao_pipeline.suggestions import did_you_mean


@dataclass(frozen=True)
class Project:
    """What an environment's configuration says.

    Attributes:
        root: The project's folder.
        catalog: Of the environment.
        data: Its data folder.
    """

    root: Path
    catalog: DataCatalog
    data: Path

    def pipeline(self, names: Sequence[str]) -> Pipeline:
        """The sum of pipelines, as `kedro run --pipelines` would run them.

        Raises:
            ClickException: There is none of a name.
        """
        registered = registered_pipelines()
        for name in names:
            if name not in registered:
                listed = ", ".join(registered)
                raise click.ClickException(
                    f"There is no pipeline '{name}'{did_you_mean(name, list(registered))} (of {listed})."
                )
        return sum((registered[name] for name in names), start=Pipeline([]))


def open_project(env: str | None, params: str | Mapping[str, Any] = "") -> Project:
    """Read the configuration of the project that the current folder is in.

    Args:
        env: The environment; None for the default one.
        params: Parameters in the form that `kedro run --params` takes, or nested as in a file.

    Raises:
        ClickException: There is no project here, or its parameters are not valid.
    """
    root = find_kedro_project(Path.cwd())
    if root is None:
        raise click.ClickException("This is no Kedro project: run it in the project's folder.")
    package = bootstrap_project(root).package_name
    given = _parsed(params) if isinstance(params, str) else dict(params)
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(root / settings.CONF_SOURCE), env=env, runtime_params=given, **settings.CONFIG_LOADER_ARGS
    )
    hooks = PluginManager(HOOK_NAMESPACE)
    hooks.add_hookspecs(DataCatalogSpecs)
    context = settings.CONTEXT_CLASS(
        package_name=package,
        project_path=root,
        config_loader=loader,
        env=env,
        runtime_params=given,
        hook_manager=hooks,
    )
    try:
        return Project(root, context.catalog, data_folder(loader, root))
    except (ValidationError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _parsed(params: str) -> dict[str, Any]:
    items = [item for item in params.split(",") if item]
    wrong = next((item for item in items if "=" not in item), None)
    if wrong is not None:
        raise click.UsageError(f"'{wrong}' in --params is no `name=value`.")
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(items))
    return given
