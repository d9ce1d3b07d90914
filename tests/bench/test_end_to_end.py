"""Seconds a trained response against TRL GRPO with the same reward: sample, annotate, score, learn."""

import pytest
from tests.bench.side_by_side import Rival, Target, Work
from tests.bench.trl_peer import Sizes, TrlGrpo, trl_or_why
from tests.bench.worlds import annotator, as_responses, forget_pictures, shipped_block, training_params

from fisao_pipeline.params.response_sampling import ResponseSamplingParams
from fisao_pipeline.training.annotation import GroundTruth
from fisao_pipeline.training.loop import PolicyTrainer

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
COMPLETIONS, BATCH, TOKENS = 4, 64, 48


def test_round(compare, shipped):
    prompts = shipped.prompts.assign(split="training")
    verifier = shipped.verifier()
    reward = annotator(shipped, verifier, shipped.open_image)
    params = training_params()
    sampling = ResponseSamplingParams.model_validate(
        {**shipped_block("response_sampling"), "responses_per_prompt": COMPLETIONS, "prompts_per_round": len(prompts)}
    )
    policy = shipped.policy(params.lora)
    trainer = PolicyTrainer(policy, reward, prompts, sampling, params, GroundTruth({}, frozenset()), lambda *_: None)

    drawn, sample = [], policy.sample_prompts
    policy.sample_prompts = lambda *args, **options: (drawn.append(1), sample(*args, **options))[1]

    def ours() -> None:
        forget_pictures(policy)
        verifier._images.clear()
        # A round whose responses are there is not sampled again.
        trainer.state.rollouts.clear()
        drawn.clear()
        trainer.round(1, None, None)
        assert drawn and len(verifier._images) == len(prompts), "the round was sampled and annotated"

    def summed(image_ids: list[str], texts: list[str]) -> list[float]:
        verifier._images.clear()
        _, paid = reward(as_responses(policy.tokenizer, image_ids, texts))
        return [sum(row) for row in paid["token_rewards"]]

    sizes = Sizes(COMPLETIONS, TOKENS, BATCH, BATCH, params.ppo.epochs, params.ppo.kl_coef, params.ppo.learning_rate)
    trl, missing = trl_or_why(lambda: TrlGrpo(shipped, prompts, sizes, params.lora, summed))
    count = len(prompts) * COMPLETIONS
    note = f"{len(prompts)} new pictures, batch {BATCH}, {params.ppo.epochs} epochs; the same verifier and rule pay"
    compare(
        Work(f"whole rounds, K = {COMPLETIONS}", count, "responses", note),
        ours,
        [
            Rival(
                "TRL GRPO, rewards summed a response",
                trl.round if trl else None,
                target=Target(2.0),
                missing=missing,
            )
        ],
        rounds=4,
    )
