"""Responses a second against `generate` and against TRL's GRPO generation, same model, prompts, K and tokens."""

import pytest
import torch
from tests.bench import plain
from tests.bench.side_by_side import Rival, Target, Work
from tests.bench.trl_peer import Sizes, TrlGrpo, trl_or_why
from tests.bench.worlds import forget_pictures
from tests.pocket_models import LORA

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.training.sampling import sample_responses

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
COMPLETIONS, TOKENS = 4, 48


def test_sampling(compare, shipped):
    policy = shipped.policy()
    few = shipped.prompts.loc[shipped.prompts.index.repeat(COMPLETIONS)].reset_index(drop=True)
    one_by_one = few.head(8)

    def ours() -> None:
        forget_pictures(policy)
        args = (policy, shipped.prompts, shipped.open_image, Decoding(1.0, TOKENS), COMPLETIONS)
        sample_responses(*args, batch_size=len(few), seed=0)

    sizes = Sizes(COMPLETIONS, TOKENS, 32, 32, 1)
    trl, missing = trl_or_why(lambda: TrlGrpo(shipped, shipped.prompts, sizes, LORA, no_reward))
    torch.manual_seed(0)
    compare(
        Work(f"sampling, K = {COMPLETIONS}", len(few), "responses"),
        ours,
        [
            Rival(
                "`generate`, one call a sample",
                lambda: plain.generate(policy, shipped, one_by_one, TOKENS, at_once=1),
                amount=len(one_by_one),
                target=Target(3.0),
            ),
            Rival(
                "`generate`, one call for all samples",
                lambda: plain.generate(policy, shipped, few, TOKENS, at_once=len(few)),
            ),
            Rival(
                "TRL GRPO's generation",
                trl.generate if trl else None,
                target=Target(1.5),
                missing=missing,
            ),
        ],
    )


def no_reward(image_ids, texts):
    return [0.0] * len(texts)
