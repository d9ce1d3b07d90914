"""Wiring of `plan`."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from fisao_pipeline.pipelines.plan.nodes import check_plan, make_plan
from fisao_pipeline.planning.subject import PLAN_SUBJECT


def create_pipeline(**_: object) -> Pipeline:
    """Return the plan: what the catalog names and all stages' parameters in; the plan out, then a check that it holds.

    The faults go from node to node in memory, so that the command to go on with plans anew.
    """
    return Pipeline(
        [
            node(
                make_plan,
                inputs=[
                    PLAN_SUBJECT,
                    "params:response_sampling",
                    "params:reward_annotation",
                    "params:policy_training",
                    "params:benchmark_evaluation",
                    "params:plan",
                ],
                outputs=["plan", "plan_faults"],
                name="make_plan",
            ),
            node(check_plan, inputs="plan_faults", outputs=None, name="check_plan"),
        ],
        tags=["plan"],
    )
