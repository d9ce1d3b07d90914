"""Trained tokens a second and peak memory against TRL's GRPOTrainer on the same rollouts, and against a floor."""

import pandas as pd
import pytest
import torch
from tests.bench import plain
from tests.bench.memory import peak_tensor_bytes
from tests.bench.side_by_side import Rival, Target, Work, attempt
from tests.bench.trl_peer import Sizes, TrlGrpo, trl_or_why
from tests.bench.worlds import training_params

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.training.learning import adapter_optimizer
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import RolloutBatch, build_rollouts
from fisao_pipeline.training.sampling import sample_responses
from fisao_pipeline.training.scoring import micro_batches, recomputed_logprobs

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
PROMPTS, COMPLETIONS, BATCH, MICRO_BATCH, TOKENS = 16, 8, 64, 32, 48
PARAMS = training_params(batch_size=BATCH, micro_batch_size=MICRO_BATCH, epochs=1)

NOTE = f"batch {BATCH}, micro-batch {MICRO_BATCH}"


def by_length(image_ids: list[str], texts: list[str]) -> list[float]:
    """Some reward; what it is costs nothing and changes no work."""
    return [len(text) % 5.0 for text in texts]


class Round:
    """Rollouts of the shipped model, K of each prompt, and what learns from them."""

    def __init__(self, shipped):
        self.world = shipped
        self.prompts = shipped.prompts.head(PROMPTS)
        self.policy = shipped.policy(PARAMS.lora)
        args = (self.policy, self.prompts, shipped.open_image, Decoding(1.0, TOKENS), COMPLETIONS)
        self.responses = sample_responses(*args, batch_size=PROMPTS * COMPLETIONS, seed=0)
        paid = self.responses["token_ids"].map(lambda row: [float(token % 2) for token in row])
        rewards = pd.DataFrame({"response_id": self.responses["response_id"], "token_rewards": paid})
        self.rollouts = build_rollouts(self.responses, self.prompts, rewards, self.policy.device)
        self.policy.add_value_head(PARAMS.ppo.value_width)
        self.optimizer = adapter_optimizer(self.policy, PARAMS.ppo)
        self.tokens = int(self.rollouts.completion_mask.sum())
        self.scored = self.score()

    def score(self):
        return score_rollouts(self.policy, self.rollouts, self.world.open_image, 1.0, PARAMS.ppo, PARAMS.ppo.kl_coef)

    def steps(self) -> None:
        ppo_round(self.policy, self.optimizer, self.scored, self.world.open_image, 1.0, PARAMS.ppo, seed=0)

    def whole(self) -> None:
        # Learnt from before, so not what its sampler says any more: that is only a warning.
        self.scored = self.score()
        self.steps()

    def trl(self) -> TrlGrpo:
        sizes = Sizes(COMPLETIONS, TOKENS, BATCH, MICRO_BATCH, epochs=1, learning_rate=PARAMS.ppo.learning_rate)
        return TrlGrpo(
            self.world, self.prompts, sizes, PARAMS.lora, lambda image_ids, texts: [len(t) % 5.0 for t in texts]
        )


@pytest.fixture
def round_(shipped) -> Round:
    return Round(shipped)


def test_steps(compare, round_):
    trl, missing = trl_or_why(round_.trl)
    completion_ids = round_.responses["token_ids"].tolist()
    language_model = LanguageModelAlone(round_)
    compare(
        Work(
            f"optimiser steps, K = {COMPLETIONS}", round_.tokens, "tokens", f"batch {BATCH}, micro-batch {MICRO_BATCH}"
        ),
        round_.steps,
        [
            Rival(
                "TRL GRPO's steps",
                (lambda: trl.steps_from(completion_ids)) if trl else None,
                target=Target(2.0),
                missing=missing,
            ),
            Rival(
                "forward and backward of the language model, packed alike",
                language_model.run,
                target=Target(1.3, at_most=True),
                is_floor=True,
            ),
        ],
    )


def test_whole_update(compare, round_):
    trl, missing = trl_or_why(round_.trl)
    completion_ids = round_.responses["token_ids"].tolist()
    compare(
        Work(f"update, K = {COMPLETIONS}", round_.tokens, "tokens", "logprobs before, reference and steps"),
        round_.whole,
        [
            Rival(
                "TRL GRPO on the same rollouts",
                (lambda: trl.learn_from(completion_ids)) if trl else None,
                target=Target(2.0),
                missing=missing,
            )
        ],
    )


def test_peak_memory(keep_row, round_):
    row = {
        "title": "update, peak tensor memory above the weights",
        "against": "TRL GRPO on the same rollouts",
        "note": "its tile of logits no wider than the vocabulary",
    }
    target = Target(0.6, at_most=True)
    round_.whole()
    ours = peak_tensor_bytes(round_.whole)
    row["ours"] = f"{ours / 2**20:.1f} MiB"
    completion_ids = round_.responses["token_ids"].tolist()

    def peak(trl: TrlGrpo) -> int:
        trl.learn_from(completion_ids)
        return peak_tensor_bytes(lambda: trl.learn_from(completion_ids))

    trl, missing = trl_or_why(round_.trl)
    if trl is not None:
        theirs, missing = attempt(lambda: peak(trl))
    if missing:
        keep_row({**row, "missing": missing}, target=target)
        return
    row |= {"theirs": f"{theirs / 2**20:.1f} MiB", "missing": None}
    keep_row(row, [ours / theirs], target)


def test_scoring(compare, round_):
    policy, rollouts = round_.policy, round_.rollouts
    rows = [list(range(start, start + MICRO_BATCH)) for start in range(0, len(rollouts), MICRO_BATCH)]

    @torch.no_grad()
    def plainly() -> None:
        for part in rows:
            plain.token_logprobs(policy, round_.world, rollouts, part)
            with policy.model.disable_adapter():
                plain.token_logprobs(policy, round_.world, rollouts, part)

    compare(
        Work(f"logprobs under policy and reference, K = {COMPLETIONS}", round_.tokens, "tokens"),
        lambda: recomputed_logprobs(policy, rollouts, round_.world.open_image, 1.0, MICRO_BATCH),
        [Rival("whole forward passes, a row a response", plainly)],
    )


class LanguageModelAlone:
    """Forward and backward of the same tokens in the same packs, and of the output layer on the completions."""

    def __init__(self, round_: Round):
        self.policy: Policy = round_.policy
        self.packs = [self._pack(round_, part) for part in self._parts(round_.rollouts)]

    @staticmethod
    def _parts(rollouts: RolloutBatch) -> list[RolloutBatch]:
        return [rollouts.rows(rows) for rows in micro_batches(rollouts, rollouts.groups, MICRO_BATCH)]

    def _pack(self, round_: Round, part: RolloutBatch) -> tuple[dict, torch.Tensor, torch.Tensor]:
        texts, image_ids, prompt_of_row = part.unique_prompts()
        batch = self.policy.encode(texts, image_ids, round_.world.open_image)
        mask = part.completion_mask
        inputs, predictor = self.policy._scoring_inputs(batch, part.completion_ids, mask, prompt_of_row)
        return inputs, predictor[mask], part.completion_ids[mask]

    def run(self) -> None:
        for inputs, predictor, ids in self.packs:
            hidden = self.policy.kind.hidden_states(dict(inputs)).flatten(0, 1)[predictor]
            logits = self.policy.backbone.get_output_embeddings()(hidden)
            torch.nn.functional.cross_entropy(logits, ids).backward()
            self.policy.model.zero_grad()
