"""From arms and seeds to the rows of a study, each with the effective parameters of every stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pydantic import ValidationError

from fisao_pipeline.params.across_stages import comparison_faults
from fisao_pipeline.params.base import Seed
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.flat import flatten_parameters
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.params.study import Arm
from fisao_pipeline.suggestions import did_you_mean

SEEDED = ("response_sampling", "policy_training")


@dataclass(frozen=True)
class StageSettings:
    """The parameters of the four stages that a study runs."""

    response_sampling: ResponseSamplingParams
    reward_annotation: RewardAnnotationParams
    policy_training: PolicyTrainingParams
    benchmark_evaluation: BenchmarkEvaluationParams

    def flat(self, exclude_defaults: bool = False) -> dict[str, Any]:
        """Dotted names, `policy_training.ppo.kl_coef` for instance, to plain values.

        Args:
            exclude_defaults: Leave out parameters that have a default in `params` and are at it.
        """
        blocks = {f"params:{field.name}": getattr(self, field.name) for field in fields(self)}
        return flatten_parameters(
            {name: block.model_dump(mode="json", exclude_defaults=exclude_defaults) for name, block in blocks.items()}
        )


@dataclass(frozen=True)
class StudyRow:
    """One run of the whole method: an arm with a seed."""

    arm: str
    seed: int
    settings: StageSettings


def plan_rows(base: StageSettings, arms: Sequence[Arm], seeds: Sequence[Seed]) -> list[StudyRow]:
    """Every arm with every seed; the first seed of all arms comes first, so that half a study compares all arms.

    Args:
        base: The configuration that the arms change.
        arms: What each changes.
        seeds: Of sampling and training; evaluation keeps its own seed, so all rows answer alike what the base answers.

    Raises:
        ValueError: An arm sets an unknown parameter, one out of range or a seed, or compares responses where a prompt
            has one; all such faults are listed.
    """
    settings: dict[str, StageSettings] = {}
    faults: list[str] = []
    for arm in arms:
        try:
            settings[arm.name] = _with_changes(base, arm.set)
        except ValueError as fault:
            faults += [f"arm '{arm.name}': {line}" for line in str(fault).splitlines()]
    if faults:
        raise ValueError("Nothing was run, these arms are not valid:\n" + "\n".join(f"- {fault}" for fault in faults))
    return [StudyRow(arm.name, seed, _with_seed(settings[arm.name], seed)) for seed in seeds for arm in arms]


def _with_seed(settings: StageSettings, seed: int) -> StageSettings:
    blocks = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return StageSettings(**blocks | {name: blocks[name].model_copy(update={"seed": seed}) for name in SEEDED})


def _with_changes(base: StageSettings, changes: dict[str, Any]) -> StageSettings:
    models = {field.name: type(getattr(base, field.name)) for field in fields(base)}
    values = {name: getattr(base, name).model_dump() for name in models}
    faults = [fault for key, value in changes.items() if (fault := _set(values, key, value))]
    blocks = {}
    for name, model in models.items():
        try:
            blocks[name] = model.model_validate(values[name])
        except ValidationError as error:
            faults += _said(name, error)
    if not faults:
        settings = StageSettings(**blocks)
        faults = comparison_faults(settings.response_sampling, settings.reward_annotation, settings.policy_training)
    if faults:
        raise ValueError("\n".join(faults))
    return settings


def _set(values: dict[str, Any], key: str, value: Any) -> str | None:
    """Change one value in place; returns what keeps it from being changed."""
    if key in {f"{name}.seed" for name in SEEDED}:
        return f"'{key}' is set by the study: give its `seeds`"
    *parents, leaf = key.split(".")
    block: Any = values
    for depth, part in enumerate([*parents, leaf]):
        if not isinstance(block, dict) or part not in block or (depth == 0 and not parents):
            return _unknown(key, ".".join(key.split(".")[:depth]), part, block)
        if depth < len(parents):
            block = block[part]
    block[leaf] = value
    return None


def _unknown(key: str, inside: str, part: str, block: Any) -> str:
    if not isinstance(block, dict):
        return f"there is no parameter '{key}': '{inside}' is {block!r} here and holds no others; set it as a whole"
    where = f"'{inside}' has" if inside else "an arm may set parameters of"
    return f"there is no parameter '{key}'{did_you_mean(part, block)} ({where} {', '.join(block)})"


def _said(name: str, error: ValidationError) -> Iterable[str]:
    for fault in error.errors():
        place = ".".join([name, *(str(part) for part in fault["loc"])])
        yield f"'{place}': {fault['msg'].removeprefix('Value error, ')} (got {_shortened(fault['input'])})"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
