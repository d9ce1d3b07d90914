"""FiSAO's training loop: sample, annotate, score, step, probe; again."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.params.policy_training import PolicyTrainingParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.seeded_choice import seeded_choice
from fisao_pipeline.training.annotation import Annotator
from fisao_pipeline.training.checkpoints import Checkpoints, Kept, Stateful, TrainingState
from fisao_pipeline.training.learning import RoundData
from fisao_pipeline.training.ranking import Judge
from fisao_pipeline.training.rollouts import build_rollouts, nonempty_responses
from fisao_pipeline.training.sampling import RESPONSE_COLUMNS, round_prompts, sample_responses
from fisao_pipeline.training.shards import Shards, drop
from fisao_pipeline.training.tables import GroundTruth
from fisao_pipeline.training.trainers import make_learner

logger = logging.getLogger(__name__)

# Not the run's seed: all seeds are judged by the same probe prompts.
PROBE_SEED = 0

LogMetrics = Callable[[dict[str, float], int], None]
"""Takes metrics and the number of optimiser steps taken when they were measured; a round's have plain names
(``token_reward``), those of one optimiser step begin with ``step.`` (``step.policy_loss``). It is called often: whoever
sends them to a server collects them first."""


@dataclass(frozen=True)
class TrainingResult:
    """The kept adapter in PEFT's format, one history row per round, and the later rounds' rollouts."""

    adapter_config: dict[str, Any]
    adapter_state: dict[str, Tensor]
    history: pd.DataFrame
    rollouts: pd.DataFrame


class PolicyTrainer:
    """Rounds of sample, annotate, score, step, probe on one policy; the trainer of the parameters takes the steps."""

    def __init__(
        self,
        policy: Policy,
        annotator: Annotator,
        prompts: pd.DataFrame,
        sampling: ResponseSamplingParams,
        params: PolicyTrainingParams,
        truth: GroundTruth,
        log_metrics: LogMetrics,
        checkpoints: Checkpoints | None = None,
    ):
        """Prepare the trainer; nothing is sampled yet.

        Args:
            policy: Backbone with a trainable adapter.
            annotator: The reward.
            prompts: The ``prompts`` table.
            sampling: How every round samples.
            params: The loop's settings.
            truth: What the annotations know, for the probe's CHAIR; may be empty.
            log_metrics: Called after each optimiser step and each round; see ``LogMetrics``.
            checkpoints: Where the run is kept while it is under way, and gone on with; None keeps nothing.
        """
        torch.manual_seed(params.seed)
        self.policy, self.annotator, self.prompts = policy, annotator, prompts
        self.sampling, self.params, self.truth, self.log_metrics = sampling, params, truth, log_metrics
        self.training_prompts = prompts[prompts["split"] == "training"]
        probe = prompts[prompts["split"] == "probe"]
        self.probe_prompts = seeded_choice(probe, "prompt_id", params.probe_prompts, PROBE_SEED)
        judge = Judge(annotator.vocabulary, truth)
        self.learner = make_learner(policy, annotator.open_image, sampling.temperature, params, judge)
        self.checkpoints = checkpoints
        # Of the untrained policy, which has not been probed yet.
        self.state = TrainingState(Kept(-1, -math.inf, {}), [])

    def train(self, first_responses: pd.DataFrame, first_rewards: pd.DataFrame) -> TrainingResult:
        """Run all rounds, the first on the cached responses and rewards; or those that a checkpoint has left.

        The kept adapter is that of the round with the best probe (the untrained one if none is better), or of the last.

        Raises:
            ValueError: If the cached responses hold no training split or do not belong to the prompts or rewards.
        """
        if not self._resume():
            self._begin()
        state, total = self.state, self.params.rounds
        left = range(state.next_round, total)
        rounds = tqdm(left, initial=left.start, total=total, desc="rounds", unit="round")
        try:
            for index in rounds:
                row = self.round(index, first_responses, first_rewards)
                rounds.set_postfix_str(progress_line(row))
                self._finish_round(row)
        except KeyboardInterrupt:
            if self.checkpoints is not None:
                logger.warning("Stopped after %s; the same command goes on from the last checkpoint.", self._place())
            raise
        if state.kept.round_index < 0:
            logger.warning(
                "No round was better on the probe than the base model: the adapter is the untrained one. Look at "
                "training_history, and at the verifier's AUROC in verifier_baseline."
            )
        logger.info("Kept the adapter of round %d of %d.", state.kept.round_index, total - 1)
        history = pd.DataFrame(state.history)
        history["kept"] = history["round"] == state.kept.round_index
        config, _ = self.policy.adapter_state()
        return TrainingResult(config, dict(state.kept.state), history, _concatenated(state.rollouts))

    def _resume(self) -> bool:
        """Go to where the newest checkpoint is; the metrics up to there are logged again, for this is another run."""
        state = self.checkpoints.restore(self.policy, self._others()) if self.checkpoints is not None else None
        if state is None:
            return False
        self.state = state
        logger.info("Going on from a checkpoint after %s.", self._place())
        updates = 0
        for row in state.history:
            updates += int(row.get("updates", 0))
            self.log_metrics(row, updates)
        return True

    def _begin(self) -> None:
        before = self.probe()
        self.log_metrics(before, 0)
        kept = Kept(-1, before.get("probe_score", -math.inf), self.policy.adapter_state()[1])
        # Not kept yet: a first round that is refused shall leave nothing.
        self.state = TrainingState(kept, [{"round": -1.0, "sampled_tokens": 0.0, **before}])

    def _finish_round(self, row: dict[str, float]) -> None:
        """Log a round's row, keep its adapter if it is the best, and a checkpoint."""
        state, score = self.state, row.get("probe_score")
        self.log_metrics(row, state.updates)
        if self.params.keep == "last" or score is None or score > state.kept.score:
            score = -math.inf if score is None else score
            state.kept = Kept(state.next_round, score, self.policy.adapter_state()[1])
        state.history.append(row)
        state.seconds = 0.0
        self._checkpoint()

    def _checkpoint(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(self.policy, self._others(), self.state)

    def _others(self) -> dict[str, Stateful]:
        return {"learner": self.learner, "verifier": self.annotator.verifier}

    def _place(self) -> str:
        """How far the run is, in words."""
        state, under_way = self.state, self.learner.progress
        steps = "" if under_way is None else f" and {len(under_way.steps)} steps of the next"
        return (
            f"{max(0, state.next_round)} of {self.params.rounds} rounds{steps} ({state.updates} optimiser steps in all)"
        )

    def round(self, index: int, first_responses: pd.DataFrame, first_rewards: pd.DataFrame) -> dict[str, float]:
        """One round, or what is left of it; returns its history row."""
        state, started = self.state, time.perf_counter() - self.state.seconds
        # 1. Sample and 2. annotate; round 0 did both in the stages before.
        if index == 0:
            responses, rewards = first_responses[first_responses["split"] == "training"], first_rewards
        else:
            responses = rewards = self._later_rollouts(index)
        if responses.empty:
            raise ValueError("policy_training: responses hold no training split; re-run response_sampling")
        responses = nonempty_responses(responses)
        rollouts = build_rollouts(responses, self.prompts, rewards, self.policy.device)

        def step_taken(numbers: dict[str, float]) -> None:
            state.updates += 1
            self.log_metrics({f"step.{name}": value for name, value in numbers.items()}, state.updates)
            if self.checkpoints is not None and state.updates % self.checkpoints.every_steps == 0:
                state.seconds = time.perf_counter() - started
                self._checkpoint()

        # 3. Score under policy and reference, and 4. take the trainer's steps.
        data = RoundData(index, self.params.seed + 31 * index, responses, rollouts)
        row = {"round": float(index), **self.learner.learn(data, step_taken)}
        tokens, seconds = int(rollouts.completion_mask.sum()), time.perf_counter() - started
        state.sampled_tokens += tokens
        row |= {
            "sampled_tokens": float(state.sampled_tokens),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
        }
        # 5. Probe.
        return {**row, **self.probe()}

    def probe(self) -> dict[str, float]:
        """Answers to the probe prompts, greedy and sampled: reward, objects and, with annotations, CHAIR and recall.

        ``probe_score`` picks the round to keep: true objects named minus false mentions, per true object, or without
        annotations the mean reward of a response; the mean over both decodings, for a model is used in both.
        """
        if self.probe_prompts.empty:
            return {}
        greedy, sampled = self._probe(0.0), self._probe(self.sampling.temperature)
        score = (greedy["probe_score"] + sampled["probe_score"]) / 2
        renamed = {name.replace("probe_", "probe_sampled_"): value for name, value in sampled.items()}
        return {**greedy, **renamed, "probe_score": score}

    def _probe(self, temperature: float) -> dict[str, float]:
        responses = sample_responses(
            self.policy,
            self.probe_prompts,
            self.annotator.open_image,
            Decoding(temperature, self.sampling.max_new_tokens),
            responses_per_prompt=1,
            batch_size=self.sampling.batch_size,
            seed=PROBE_SEED,
            description="probing",
        )
        mentions, rewards = self.annotator(responses)
        return probe_numbers(responses, mentions, rewards, self.truth.objects)

    def _later_rollouts(self, index: int) -> pd.DataFrame:
        """A later round's responses with their token rewards: those of the state, or kept, or sampled now."""
        state = self.state
        if len(state.rollouts) == index:
            return state.rollouts[-1]
        shards = self.checkpoints.round_shards(index, self.policy) if self.checkpoints is not None else None
        kept = shards.read(shards.owner) if shards is not None else None
        responses = self._sample(index, shards) if kept is None else kept[RESPONSE_COLUMNS]
        # Kept ones are scored again too: what the verifier has embedded is part of the state.
        _, rewards = self.annotator(responses)
        table = responses.merge(rewards, on="response_id").assign(round=index)
        state.rollouts.append(table)
        if shards is not None:
            if kept is None:
                shards.store.put(shards.owner, table)
            drop(shards.store, lambda: [shards.owner])
            state.rollout_keys.append(shards.owner)
        self._checkpoint()
        return table

    def _sample(self, index: int, shards: Shards | None) -> pd.DataFrame:
        chosen = round_prompts(self.training_prompts, index, self.sampling.prompts_per_round, self.sampling.seed)
        return sample_responses(
            self.policy,
            chosen,
            self.annotator.open_image,
            Decoding(self.sampling.temperature, self.sampling.max_new_tokens),
            self.sampling.responses_per_prompt,
            self.sampling.batch_size,
            seed=1000 * (self.params.seed + 1) + index,
            description=f"round {index}: sampling",
            shards=shards,
        )


def probe_numbers(
    responses: pd.DataFrame, mentions: pd.DataFrame, rewards: pd.DataFrame, objects: Mapping[str, set[str]]
) -> dict[str, float]:
    """What the probe's answers are worth; see ``PolicyTrainer.probe``.

    Where images are annotated, a round that names nothing known scores 0: it is never judged by its reward, which has
    another scale than the other rounds' scores.
    """
    count = len(responses)
    reward = sum(sum(row) for row in rewards["token_rewards"]) / count
    numbers = {
        "probe_reward": reward,
        "probe_objects": len(mentions) / count,
        "probe_repeated": float(mentions["repeated"].sum()) / count,
        "probe_score": reward,
    }
    true = sum(len(objects.get(image_id, ())) for image_id in responses["image_id"])
    labelled = mentions.dropna(subset="label")
    if not true:
        return numbers
    false = int((labelled["label"] == "hallucinated").sum())
    named = len(labelled[labelled["label"] == "correct"].drop_duplicates(["response_id", "category"]))
    numbers |= {"probe_recall": named / true, "probe_score": (named - false) / true}
    return numbers if labelled.empty else numbers | {"probe_chair_i": false / len(labelled)}


def progress_line(row: Mapping[str, float]) -> str:
    """The numbers that matter while waiting: reward, KL, CHAIR on the probe, tokens per second."""
    parts = [f"reward {row['token_reward']:+.2f}", f"KL {row['kl_k3']:.2f}"]
    if "probe_chair_i" in row:
        parts.append(f"probe CHAIR_i {row['probe_chair_i']:.3f} recall {row['probe_recall']:.3f}")
    return ", ".join([*parts, f"{row['tokens_per_second']:.0f} tokens/s"])


def _concatenated(tables: list[pd.DataFrame]) -> pd.DataFrame:
    if tables:
        return pd.concat(tables, ignore_index=True)
    return pd.DataFrame(columns=[*RESPONSE_COLUMNS, "token_rewards", "round"])
