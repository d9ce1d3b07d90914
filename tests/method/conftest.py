from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator

import jaxtyping
import pytest

if "MUTANT_UNDER_TEST" in os.environ:
    # What the tests' libraries import when they are first used, in seconds: once here, not in every mutant's process.
    for module in ("numpy.random", "tokenizers", "torch._dynamo", "torch.distributed.tensor"):
        importlib.import_module(module)

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Hand-computed cases before properties of many examples: the first test that fails ends a mutant's run."""
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))
        # What was imported until here outlives every mutant: no mutant's process need look for garbage in it.
        gc.freeze()


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Without the check of annotations, which tests have and users do not: the function itself has to refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
