"""Running a study: row by row, each kept when it is finished, work that rows share done once."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pandas as pd
from tqdm.auto import tqdm

from fisao_pipeline.experiments.arms import StageSettings, StudyRow
from fisao_pipeline.experiments.fingerprints import StudyInputs
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams

logger = logging.getLogger(__name__)


class Stages(Protocol):
    """The stages of the method, each bound to the study's images, prompts and models."""

    def sample(self, sampling: ResponseSamplingParams) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The untrained policy's ``responses``, and the ``rejected_prompts``."""

    def annotate(
        self, responses: pd.DataFrame, annotation: RewardAnnotationParams
    ) -> tuple[dict[str, Any], pd.DataFrame]:
        """The ``verifier_baseline`` and the ``token_rewards`` of responses."""

    def train(
        self,
        responses: pd.DataFrame,
        rejected_prompts: pd.DataFrame,
        baseline: dict[str, Any],
        token_rewards: pd.DataFrame,
        settings: StageSettings,
    ) -> tuple[Any, pd.DataFrame]:
        """The kept adapter and the ``training_history``."""

    def answer_base(self, evaluation: BenchmarkEvaluationParams) -> pd.DataFrame:
        """The base model's part of ``predictions``."""

    def answer_aligned(self, adapter: Any, evaluation: BenchmarkEvaluationParams) -> pd.DataFrame:
        """The aligned model's part of ``predictions``."""

    def compare(self, predictions: pd.DataFrame, evaluation: BenchmarkEvaluationParams) -> dict[str, Any]:
        """The ``comparison`` of both."""


class Store(Protocol):
    """Values by key; what was put is kept at once and whole."""

    def get(self, key: str) -> Any | None:
        """The value, None when there is none."""

    def put(self, key: str, value: Any) -> None:
        """Keep a value."""

    def claim(self, key: str, wait: bool = False) -> AbstractContextManager[bool]:
        """Within the block no other process that uses the store has this claim; False when another has it now."""


Track = Callable[[StudyRow, str], AbstractContextManager[str | None]]
"""Opens the record of a row (by its key) for as long as it runs; gives the record's id, None without one."""


# Between two looks at rows that another process has in hand.
POLL_SECONDS = 5.0


class NotKeptError(RuntimeError):
    """A finished row could not be kept. The rows after it could not either, so the study ends."""


@dataclass(frozen=True)
class Study:
    """Runs rows.

    Attributes:
        stages: What a row consists of.
        inputs: Models and data; part of every row's key.
        rows: Finished rows by key.
        cache: Tables that rows share: the first round's responses and the base model's answers.
        track: Records each row that is run.
        information: Goes into every row that is run and decides nothing: the commit, for instance.
    """

    stages: Stages
    inputs: StudyInputs
    rows: Store
    cache: Store
    track: Track
    information: Mapping[str, Any] = field(default_factory=dict)

    def run(self, plan: Sequence[StudyRow]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Run the rows that are not kept yet; those that another process has in hand are left to it, and come last.

        A row that fails does not end the study: it is logged, and the next one is run.

        Returns:
            Finished rows and failed ones, both in the plan's order. A record of a finished one has ``arm``, ``seed``,
            ``key``, ``base_key`` and what was kept: ``parameters``, ``inputs``, ``information``, ``seconds`` by stage,
            ``history`` and ``comparison``; one of a failed one ``arm``, ``seed``, ``key`` and the ``error``.

        Raises:
            NotKeptError: A row was finished and could not be kept, as on a full disk.
        """
        done: dict[int, dict[str, Any]] = {}
        left = list(enumerate(plan, start=1))
        progress = tqdm(total=len(plan), desc="study", unit="row")
        try:
            while left:
                before, left = left, []
                for number, row in before:
                    progress.set_postfix_str(f"{row.arm}, seed {row.seed}")
                    record = self._record(row, f"Row {number} of {len(plan)} (arm {row.arm}, seed {row.seed})")
                    if record is None:
                        left.append((number, row))
                    else:
                        done[number] = record
                        progress.update()
                if len(left) == len(before):
                    progress.set_postfix_str(f"{len(left)} rows in hand elsewhere")
                    time.sleep(POLL_SECONDS)
        except BaseException:
            kept = sum("error" not in record for record in done.values())
            logger.warning("%d of %d rows are kept; the same command goes on with the next.", kept, len(plan))
            raise
        finally:
            progress.close()
        records = [done[number] for number in sorted(done)]
        return [r for r in records if "error" not in r], [r for r in records if "error" in r]

    def _record(self, row: StudyRow, name: str) -> dict[str, Any] | None:
        """The row as it was kept before or is kept now, or how it failed; None while another process runs it."""
        key = self.inputs.row_key(row)
        identity = {"arm": row.arm, "seed": row.seed, "key": key}
        kept = self._kept(key)
        if kept is None:
            with self.rows.claim(key) as ours:
                if not ours:
                    return None
                kept = self._kept(key)  # the process that had the claim a moment ago may have finished it
                if kept is None:
                    logger.info("%s starts.", name)
                    try:
                        kept = self._run(row, key)
                    except NotKeptError:
                        raise
                    except Exception as error:
                        logger.exception("%s failed, the study goes on without it.", name)
                        return {**identity, "error": f"{type(error).__name__}: {error}"}
                    return self._with_names(kept, row, identity)
        as_arm = "" if kept["arm"] == row.arm else f" as arm {kept['arm']}, which has the same settings,"
        logger.info("%s is not run again: kept%s since %s, %s.", name, as_arm, kept["information"]["ended"], key)
        return self._with_names(kept, row, identity)

    def _with_names(self, kept: dict[str, Any], row: StudyRow, identity: dict[str, Any]) -> dict[str, Any]:
        return {**kept, **identity, "base_key": self.inputs.base_key(row.settings.benchmark_evaluation)}

    def _kept(self, key: str) -> dict[str, Any] | None:
        row = self.rows.get(key)
        if row is not None and row.get("key") != key:
            logger.warning("The row kept as %s says that it is %s; it is run again.", key, row.get("key"))
            return None
        return row

    def _run(self, row: StudyRow, key: str) -> dict[str, Any]:
        settings, seconds = row.settings, {}
        evaluation = settings.benchmark_evaluation
        with self.track(row, key) as record_id:
            # First, so that an evaluation that cannot be done is known before anything is trained.
            with _timed(seconds, "base_predictions"):
                (base,) = self._shared(
                    [self.inputs.base_key(evaluation)], lambda: (self.stages.answer_base(evaluation),)
                )
            with _timed(seconds, "responses"):
                sampling = settings.response_sampling
                responses, rejected = self._shared(
                    self.inputs.responses_keys(sampling), lambda: self.stages.sample(sampling)
                )
            with _timed(seconds, "annotation"):
                baseline, rewards = self.stages.annotate(responses, settings.reward_annotation)
            with _timed(seconds, "training"):
                adapter, history = self.stages.train(responses, rejected, baseline, rewards, settings)
            with _timed(seconds, "aligned_predictions"):
                aligned = self.stages.answer_aligned(adapter, evaluation)
            with _timed(seconds, "comparison"):
                comparison = self.stages.compare(pd.concat([base, aligned], ignore_index=True), evaluation)
            ended = datetime.now(UTC).isoformat(timespec="seconds")
            finished = {
                "key": key,
                "arm": row.arm,
                "seed": row.seed,
                "parameters": settings.flat(),
                "inputs": self.inputs.to_dict(),
                "information": {**self.information, "ended": ended, "mlflow_run_id": record_id},
                "seconds": seconds,
                "history": _records(history),
                "comparison": comparison,
            }
            try:
                self.rows.put(key, finished)
            except Exception as error:
                raise NotKeptError(f"Row {key} (arm {row.arm}, seed {row.seed}) could not be kept: {error}") from error
        return finished

    def _shared(self, keys: Sequence[str], make: Callable[[], tuple[pd.DataFrame, ...]]) -> tuple[pd.DataFrame, ...]:
        """Tables that were kept, or else are made and kept; both ways they are read back, so no row sees others."""
        with self.cache.claim(keys[0], wait=True):
            if any(self.cache.get(key) is None for key in keys):
                for key, table in zip(keys, make(), strict=True):
                    self.cache.put(key, table)
        return tuple(self.cache.get(key) for key in keys)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-ready dicts without the values that a row does not have."""
    return [
        {name: value for name, value in row.items() if not (isinstance(value, float) and not math.isfinite(value))}
        for row in table.to_dict(orient="records")
    ]
