"""How a run computes (`runtime`): bit by bit as before on the same GPU, with CUDA graphs; and a process as it was."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from fisao_pipeline.params.runtime import RuntimeParams

logger = logging.getLogger(__name__)

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
# The two that NVIDIA documents as repeatable; the first is faster.
REPEATABLE = (":4096:8", ":16:8")


class RuntimeHooks:
    """Has a run compute as its parameters say, and the process as before when the run ends, however it ends."""

    def __init__(self) -> None:
        self._restore = ExitStack()

    @hook_impl(trylast=True)  # after what may refuse the run, of whose end nobody would be told
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        """Switch on what is asked for, and off what is not wanted."""
        self._restore.close()
        runtime = runtime_params(catalog)
        if runtime.deterministic:
            self._restore.enter_context(deterministic_algorithms())
            logger.info("Deterministic algorithms only (runtime.deterministic).")
        if not runtime.cuda_graphs:
            from fisao_pipeline.models.steps import plain_steps  # noqa: PLC0415 - slow to import, and seldom wanted

            self._restore.enter_context(plain_steps())

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Switch back."""
        self._restore.close()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Switch back."""
        self._restore.close()

    @hook_impl
    def on_pipeline_interrupt(self) -> None:
        """Switch back."""
        self._restore.close()


def runtime_params(catalog: DataCatalog) -> RuntimeParams:
    """A run's block `runtime`; neither deterministic nor forced where there is none.

    Raises:
        ValidationError: If the block is not valid.
    """
    block = catalog.get("params:runtime")
    return RuntimeParams.model_validate(block.load() if block is not None else {"deterministic": False})


def is_deterministic(catalog: DataCatalog) -> bool:
    """What a run's `runtime.deterministic` says; false where there is no such block.

    Raises:
        ValidationError: If the block is not valid.
    """
    return runtime_params(catalog).deterministic


def determinism_fault() -> str | None:
    """Why this process cannot compute repeatably on its GPU any more; None where it can."""
    given = os.environ.get(WORKSPACE)
    if given in REPEATABLE:
        return None
    remedy = f"start a new process with `export {WORKSPACE}={REPEATABLE[0]}` before it, or set it to false"
    if given is not None:
        return f"runtime.deterministic: {WORKSPACE} is {given!r} and not one of {', '.join(REPEATABLE)}: {remedy}"
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return (
            f"runtime.deterministic was set too late: this process has used its GPU already, without {WORKSPACE}, "
            f"which cuBLAS reads once: {remedy}"
        )
    return None


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Within the block torch uses repeatable algorithms alone; an operation without one raises, and torch names it.

    Raises:
        RuntimeError: If it is too late for this process.
    """
    import torch  # noqa: PLC0415 - slow to import, and most runs do not ask for it

    fault = determinism_fault()
    if fault is not None:
        raise RuntimeError(fault)
    workspace, cudnn = os.environ.get(WORKSPACE), torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.benchmark)
    mode, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    os.environ.setdefault(WORKSPACE, REPEATABLE[0])
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = before
        # Where the GPU was used cuBLAS has read it, and a later run of this process may rely on it.
        if workspace is None and not torch.cuda.is_initialized():
            os.environ.pop(WORKSPACE, None)
