"""Time and memory of each stage at 1, 4 and 16 times the pictures, the responses of each, and their tokens."""

from collections.abc import Callable

import pytest
from tests.bench.conftest import SHIPPED_MODELS
from tests.bench.memory import peak_tensor_bytes
from tests.bench.side_by_side import CPU_SECONDS
from tests.bench.worlds import annotator, forget_pictures, training_params
from tests.pocket_models import PocketWorld, favour

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.training.learning import adapter_optimizer
from fisao_pipeline.training.ppo import ppo_round, score_rollouts
from fisao_pipeline.training.rollouts import build_rollouts
from fisao_pipeline.training.sampling import sample_responses

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
# Pictures, responses of each, tokens of each.
START = {"pictures": 8, "responses of each": 4, "tokens of each": 16}
AXES = {
    "pictures": (8, 32, 128),
    "responses of each": (2, 8, 32),
    "tokens of each": (8, 32, 128),
}
AT_ONCE = 32


class Stages:
    """Sampling, annotation and update of as much as is asked for; no response ends before its last token."""

    def __init__(self, models, pictures: int, completions: int, tokens: int):
        self.world = PocketWorld.make(models, count=pictures)
        self.params = training_params(batch_size=AT_ONCE, micro_batch_size=AT_ONCE, epochs=1)
        self.policy = self.world.policy(self.params.lora)
        favour(self.policy, self.policy.tokenizer.eos_token_id, -1e4)
        self.verifier = self.world.verifier()
        # As many pictures at once at every size; all of the fewest would be less than its default.
        self.verifier.batch_size = START["pictures"]
        self.annotate = annotator(self.world, self.verifier, self.world.open_image)
        self.completions, self.tokens = completions, tokens
        self.optimizer = adapter_optimizer(self.policy, self.params.ppo)

    def sampling(self) -> None:
        forget_pictures(self.policy)
        args = (self.policy, self.world.prompts, self.world.open_image, Decoding(1.0, self.tokens), self.completions)
        self.responses = sample_responses(*args, batch_size=AT_ONCE, seed=0)

    def annotation(self) -> None:
        self.verifier._images.clear()
        _, self.rewards = self.annotate(self.responses)

    def update(self) -> None:
        args = (self.world.open_image, 1.0, self.params.ppo)
        rollouts = build_rollouts(self.responses, self.world.prompts, self.rewards, self.policy.device)
        ppo_round(self.policy, self.optimizer, score_rollouts(self.policy, rollouts, *args, 0.05), *args, seed=0)


@pytest.mark.parametrize("axis", AXES)
def test_growth(keep_growth, axis):
    points: dict[str, list[tuple[float, float]]] = {"sampling": [], "annotation": [], "update": []}
    for amount in AXES[axis]:
        stages = Stages(SHIPPED_MODELS, *{**START, axis: amount}.values())
        for name, found in points.items():
            run: Callable[[], None] = getattr(stages, name)
            peak_bytes = peak_tensor_bytes(run)  # and warms up
            found.append((min(seconds(run) for _ in range(2)), peak_bytes / 2**20))
    for stage, found in points.items():
        keep_growth({"axis": axis, "stage": stage, "amounts": AXES[axis], "points": found})


def seconds(run: Callable[[], None]) -> float:
    started = CPU_SECONDS()
    run()
    return CPU_SECONDS() - started
