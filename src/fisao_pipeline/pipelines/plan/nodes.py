"""Nodes of `plan`."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import click

from fisao_pipeline.models.source import ModelNotFoundError
from fisao_pipeline.params.across_stages import comparison_faults
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.plan import Card, PlanParams
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.planning.subject import PlanSubject

logger = logging.getLogger(__name__)

# CUDA's own part of a process is not free either, and reserved by the plan.
_AS_GOOD_AS_FREE = 0.95


def make_plan(
    subject: PlanSubject,
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams,
    training: PolicyTrainingParams,
    evaluation: BenchmarkEvaluationParams,
    params: PlanParams,
) -> tuple[dict[str, Any], list[str]]:
    """Sizes, memory, tokens and hours as far as the configurations that are here tell; and all that is missing."""
    from fisao_pipeline.chosen_vocabulary import load_vocabulary  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.own_encoder import compare_towers  # noqa: PLC0415
    from fisao_pipeline.models.packages import check_sampler_package  # noqa: PLC0415
    from fisao_pipeline.models.prompts import PromptEncoder  # noqa: PLC0415
    from fisao_pipeline.planning.plan import Run, card_faults, context_fault, format_plan, plan_run  # noqa: PLC0415

    faults = [*subject.faults, *comparison_faults(sampling, annotation, training)]
    for name, block in (("reward_annotation", annotation), ("benchmark_evaluation", evaluation)):
        try:
            load_vocabulary(block.vocabulary, f"{name}.vocabulary")
        except ValueError as error:
            faults.append(str(error))
    try:
        check_sampler_package(sampling.sampler)
    except ImportError as error:
        faults.append(str(error))
    shapes = _measured(subject, training, faults)
    planned: dict[str, Any] = {}
    if shapes["policy_backbone"] is not None:
        limit = inspect.signature(PromptEncoder).parameters["cache_bytes"].default
        checkpointing = bool(subject.models["policy_backbone"].options.get("gradient_checkpointing"))
        run = Run(
            shapes["policy_backbone"],
            shapes["verifier"],
            subject.prompts,
            sampling,
            training,
            evaluation,
            checkpointing,
            limit,
        )
        try:
            planned = plan_run(run, params, card_here(params))
        except ValueError as error:
            faults.append(str(error))
        else:
            faults += [*card_faults(planned), *filter(None, [context_fault(run, params)])]
            eyes = compare_towers(subject.models["policy_backbone"], subject.models["verifier"])
            planned["own_encoder"] = eyes.own
            notes = "".join(f"\n- {note}." for note in (memory_taken(), eyes) if note is not None)
            # Not through the log, which wraps lines.
            click.echo(f"{format_plan(planned)}{notes}")
    return {**planned, "faults": faults}, faults


def _measured(subject: PlanSubject, training: PolicyTrainingParams, faults: list[str]) -> dict[str, Any]:
    """Sizes of both models, None where one cannot be measured; that, and what loading would refuse, are faults, too."""
    from fisao_pipeline.models.loading_faults import loading_faults  # noqa: PLC0415 - slow to import
    from fisao_pipeline.models.shape import policy_shape, verifier_shape  # noqa: PLC0415

    shapes: dict[str, Any] = {"policy_backbone": None, "verifier": None}
    for name, measure in (
        ("policy_backbone", lambda source: policy_shape(source, training.lora)),
        ("verifier", verifier_shape),
    ):
        found = []
        try:
            shapes[name] = measure(subject.models[name])
        except ModelNotFoundError as error:
            # The entry's own check has said so already.
            found += [] if str(error) in faults else [str(error)]
        except (ImportError, ValueError, OSError, AttributeError) as error:
            found.append(str(error))
        found += loading_faults(name, subject.models[name])
        # What both refuse, they refuse in the same words.
        faults += [f"{name}: {fault}" for fault in dict.fromkeys(found)]
    return shapes


def card_here(params: PlanParams) -> Card | None:
    """The GPU of this machine with what is free of it now, its peaks those of the entry that its name holds.

    None where there is no GPU.

    Raises:
        ValueError: If no entry of `plan.cards` has a name that is part of the GPU's, or nothing of it is free.
    """
    import torch  # noqa: PLC0415 - slow to import

    if not torch.cuda.is_available():
        return None
    here = torch.cuda.get_device_properties(0)
    for card in params.cards:
        if card.name.lower() in here.name.lower():
            usable = min(here.total_memory, _free_memory(here.name)) / 2**30
            return card.model_copy(update={"name": here.name, "memory_gib": usable})
    raise ValueError(f"the GPU {here.name!r} is none of plan.cards: add it there, with its peaks")


def memory_taken() -> str | None:
    """That others use the GPU of this machine, in words; None where it is as good as free, or there is none."""
    import torch  # noqa: PLC0415 - slow to import

    if not torch.cuda.is_available():
        return None
    here = torch.cuda.get_device_properties(0)
    free = _free_memory(here.name)
    if free >= _AS_GOOD_AS_FREE * here.total_memory:
        return None
    return (
        f"Of the {here.total_memory / 2**30:.1f} GiB of {here.name} only {free / 2**30:.1f} are free now, and planned "
        "with: `nvidia-smi` shows what takes the rest"
    )


def _free_memory(name: str) -> int:
    """Bytes of the GPU that are free.

    Raises:
        ValueError: There is not even room to ask.
    """
    import torch  # noqa: PLC0415 - slow to import

    try:
        return torch.cuda.mem_get_info(0)[0]
    except RuntimeError as error:
        raise ValueError(
            f"the GPU {name!r} cannot be used now ({error}): `nvidia-smi` shows what else uses it"
        ) from error


def check_plan(faults: list[str]) -> None:
    """End the run where something is missing or does not fit.

    Raises:
        ValueError: There is something; all of it is listed.
    """
    if faults:
        raise ValueError("This run would not go through:\n" + "\n".join(f"- {fault}" for fault in faults))
    logger.info("Every file and model that a run needs is here, and the plan fits.")
