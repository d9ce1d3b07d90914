"""What batches and an order by length save: `python -m tests.training.decoding_speed [PROMPTS] [BATCH] [TIMES]`.

The shipped VLM captions pictures greedily, the ways in turn, in one process: a prompt at a time, batches in the order
of the file, and batches of prompts of like length, the longest first, as the evaluation makes them. A line for the
pocket world's own prompts, which hardly differ in length, and one for prompts of one to eight sentences. CPU seconds,
the least of TIMES.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.pocket_models import PocketWorld
from tests.smoke_project import PROJECT

from fisao_pipeline.models.decoding import Decoding
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.pocket.language import CAPTION_PROMPTS
from fisao_pipeline.training.sampling import batched

GREEDY = Decoding(temperature=0, max_new_tokens=48)


def answers(policy: Policy, world: PocketWorld, prompts: list[str], order: Sequence[int], size: int) -> dict[int, str]:
    ids = list(world.images)
    found = {}
    for rows in batched(len(order), size):
        part = [order[row] for row in rows]
        batch = policy.encode([prompts[i] for i in part], [ids[i] for i in part], world.open_image)
        drawn = policy.sample(batch, GREEDY)
        found |= dict(zip(part, policy.decode(drawn.ids, drawn.mask)[0], strict=True))
    return found


def measure(policy: Policy, world: PocketWorld, prompts: list[str], size: int, times: int) -> dict[str, float]:
    tokens = policy.encode.count_tokens(prompts, [image.size for image in world.images.values()])
    in_order = list(range(len(prompts)))
    by_length = sorted(in_order, key=lambda i: -tokens[i])
    ways = {"one": (in_order, 1), "in_order": (in_order, size), "by_length": (by_length, size)}
    took: dict[str, list[float]] = {way: [] for way in ways}
    said = {}
    for _ in range(times):
        for way, (order, at_once) in ways.items():
            started = time.process_time()
            said[way] = answers(policy, world, prompts, order, at_once)
            took[way].append(time.process_time() - started)
    alike = {way: sum(said[way][i] == said["one"][i] for i in in_order) / len(prompts) for way in ways}
    return {
        "prompt_tokens": [min(tokens), max(tokens)],
        **{f"{way}_seconds": round(min(seconds), 2) for way, seconds in took.items()},
        **{f"{way}_alike": round(share, 3) for way, share in alike.items() if way != "one"},
    }


def main() -> None:
    count, size, times = (int(given) for given in (sys.argv[1:] + ["64", "32", "3"][len(sys.argv) - 1 :]))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pocket_vlm").symlink_to(PROJECT / "data" / "06_models" / "pocket_vlm")
        world = PocketWorld.make(Path(folder), count)
        policy = Policy.load(world.policy_source)
    own = [CAPTION_PROMPTS[i % len(CAPTION_PROMPTS)] for i in range(count)]
    rng = random.Random(0)
    mixed = [" ".join(rng.choices(CAPTION_PROMPTS, k=rng.randint(1, 8))) for _ in range(count)]
    for name, prompts in (("own", own), ("mixed", mixed)):
        found = measure(policy, world, prompts, size, times)
        print(json.dumps({"prompts": name, "count": count, "batch": size, **found}))  # noqa: T201


if __name__ == "__main__":
    main()
