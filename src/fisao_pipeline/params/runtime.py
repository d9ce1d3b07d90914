"""Parameters of the process, whatever the stage."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import StageParams


class RuntimeParams(StageParams):
    """How this process computes, whatever the stage."""

    deterministic: bool = Field(description="Whether only algorithms that repeat bit by bit on a GPU are used.")
    cuda_graphs: bool = Field(
        default=True, description="Whether steps of drawing are recorded as CUDA graphs, on a GPU, and replayed."
    )
    force: bool = Field(default=False, description="Whether nodes are run whose outputs are there and fresh, too.")
    registered_model: str | None = Field(
        default=None,
        min_length=1,
        description="Name that adapters get in MLflow's model registry, with `{base_model}` for what they are of.",
    )
    adapter_weights_to_mlflow: bool = Field(
        default=True, description="Whether an adapter's tensors are copied to MLflow, beside its other files."
    )
