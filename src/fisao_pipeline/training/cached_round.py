"""Whether the cached first round was made with the settings and models that the later rounds will use."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams
from fisao_pipeline.training.baseline import VerifierBaseline
from fisao_pipeline.training.sampling import round_prompts


class Difference(NamedTuple):
    """One setting or model: its full name, the value that the cached artifacts were made with, and that of this run."""

    name: str
    cached: Any
    now: Any


def check_cached_round(
    responses: pd.DataFrame,
    prompts: pd.DataFrame,
    baseline: VerifierBaseline,
    sampling: ResponseSamplingParams,
    annotation: RewardAnnotationParams,
    backbone: str,
    verifier: str,
) -> None:
    """Refuse a first round whose responses or rewards were made by other settings or models than the later rounds'.

    Args:
        responses: The ``responses`` table.
        prompts: The ``prompts`` that may be asked.
        baseline: The ``verifier_baseline``, which says what the rewards were made with.
        sampling: How later rounds sample.
        annotation: How later rounds are rewarded.
        backbone: `models.source.loaded_identity` of the policy to be trained.
        verifier: `models.source.identity` of the verifier that scores later rounds.

    Raises:
        ValueError: Something differs; the message names each thing, both values and the command to run.
    """
    sampled = sampling_differences(responses, prompts, sampling, backbone)
    rewarded = reward_differences(baseline, annotation, verifier)
    if not sampled and not rewarded:
        return
    stages = ["response_sampling"] * bool(sampled) + ["reward_annotation", "policy_training"]
    listed = "; ".join(f"{name} was {cached!r} and is {now!r}" for name, cached, now in [*sampled, *rewarded])
    raise ValueError(
        "policy_training: the cached first round was made with other settings or models than the later rounds "
        f"would be: {listed}. Make it anew with `kedro run --pipelines={','.join(stages)}` and the same --env and "
        "--params, or put the values into conf/ first; or train with the old ones."
    )


def reward_differences(
    baseline: VerifierBaseline, annotation: RewardAnnotationParams, verifier: str
) -> list[Difference]:
    """Settings, verifier and vocabulary of the stored rewards that are not this run's."""
    stored = baseline.settings
    now = annotation.model_dump(mode="json")
    names = [*now, *(name for name in stored if name not in now)]
    differences = [
        Difference(f"reward_annotation.{name}", stored.get(name), now.get(name))
        for name in names
        if stored.get(name) != now.get(name)
    ]
    # None: stored by a version that did not say.
    if baseline.verifier != verifier:
        differences.append(Difference("verifier", baseline.verifier, verifier))
    digest = file_digest(annotation.vocabulary)
    if stored.get("vocabulary") == annotation.vocabulary and baseline.vocabulary_digest != digest:
        name = f"the content of reward_annotation.vocabulary ({annotation.vocabulary})"
        differences.append(Difference(name, baseline.vocabulary_digest, digest))
    return differences


def sampling_differences(
    responses: pd.DataFrame, prompts: pd.DataFrame, sampling: ResponseSamplingParams, backbone: str
) -> list[Difference]:
    """Backbone and settings of the cached training responses, as far as their rows tell, that are not this run's.

    They tell the sampler, the temperature, the number of responses to a prompt, the longest completion where one was
    cut, and by which prompts were asked the seed and the number of prompts a round.
    """
    rows = responses[responses["split"] == "training"]
    if rows.empty:
        return []
    lengths = rows["token_ids"].str.len()
    cut = lengths[(rows["finish_reason"] == "length") & (lengths > 0)]
    found = {
        # None: stored by a version that did not say.
        "temperature": float(rows["temperature"].iloc[0]) if "temperature" in rows else None,
        # There was no other when they did not say.
        "sampler": rows["sampler"].iloc[0] if "sampler" in rows else "in_process",
        "responses_per_prompt": int(rows.groupby("prompt_id").size().max()),
        "max_new_tokens": int(cut.max()) if len(cut) else max(int(lengths.max()), sampling.max_new_tokens),
    }
    differences = [
        Difference(f"response_sampling.{name}", value, getattr(sampling, name))
        for name, value in found.items()
        if value != getattr(sampling, name)
    ]
    made_by = responses["backbone"].dropna().unique().tolist() if "backbone" in responses else []
    if made_by != [backbone]:
        differences.append(Difference("policy_backbone", ", ".join(made_by) or None, backbone))
    training = prompts[prompts["split"] == "training"]
    asked = set(rows["prompt_id"])
    would_ask = set(round_prompts(training, 0, sampling.prompts_per_round, sampling.seed)["prompt_id"])
    if asked != would_ask:
        name = "what is asked (by response_sampling.seed and .prompts_per_round and the prompts artifact)"
        now = f"{len(would_ask)} prompts, {len(asked & would_ask)} of them the same"
        differences.append(Difference(name, f"{len(asked)} prompts", now))
    return differences
