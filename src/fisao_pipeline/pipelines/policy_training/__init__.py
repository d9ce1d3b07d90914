"""Stage 4: token-level PPO of a LoRA adapter."""

from fisao_pipeline.pipelines.policy_training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
