"""Stage 4: training of a LoRA adapter, by token-level PPO or a comparison's trainer."""

from fisao_pipeline.pipelines.policy_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
