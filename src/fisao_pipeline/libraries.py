"""Versions of what results depend on besides the code of this package."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from fisao_pipeline import __version__

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "vllm",
    "numpy",
    "pandas",
    "kedro",
    "kedro-mlflow",
    "mlflow",
)


@cache
def library_versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that results depend on."""
    versions = {"fisao-pipeline": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
