"""The pipelines by name. The packages are imported one by one: Kedro's search would skip those a sum needs."""

from kedro.pipeline import Pipeline

from fisao_pipeline.pipelines import (
    ablation,
    benchmark_evaluation,
    compare_runs,
    image_ingestion,
    lmms_eval,
    plan,
    pocket_instructblip,
    pocket_world,
    policy_training,
    pope_questions,
    response_sampling,
    reward_annotation,
    score_predictions,
    seed_study,
    theorem,
)
from fisao_pipeline.pipelines.stages import as_stage


def register_pipelines() -> dict[str, Pipeline]:
    """Make every pipeline of the project.

    Returns:
        The five stages, `train` (the first four), `__default__` (all five); `pocket_world`, `pocket_instructblip`;
        `score_predictions`, `clip_score`, `pope_questions`; `compare_runs`, `lmms_eval`, `plan`, `seed_study`,
        `ablation` and `theorem`.
    """
    training_stages = {
        "image_ingestion": as_stage("image_ingestion", image_ingestion.create_pipeline()),
        "response_sampling": as_stage("response_sampling", response_sampling.create_pipeline()),
        "reward_annotation": as_stage("reward_annotation", reward_annotation.create_pipeline()),
        "policy_training": as_stage("policy_training", policy_training.create_pipeline()),
    }
    evaluation = as_stage("benchmark_evaluation", benchmark_evaluation.create_pipeline())
    train = sum(training_stages.values(), start=Pipeline([]))
    return {
        "__default__": train + evaluation,
        "train": train,
        **training_stages,
        "benchmark_evaluation": evaluation,
        "compare_runs": compare_runs.create_pipeline(),
        "lmms_eval": lmms_eval.create_pipeline(),
        "plan": plan.create_pipeline(),
        "score_predictions": score_predictions.create_pipeline(),
        "clip_score": score_predictions.create_clip_pipeline(),
        "pope_questions": pope_questions.create_pipeline(),
        "pocket_world": pocket_world.create_pipeline(),
        "pocket_instructblip": pocket_instructblip.create_pipeline(),
        "seed_study": seed_study.create_pipeline(),
        "theorem": theorem.create_pipeline(),
        "ablation": ablation.create_pipeline(),
    }
