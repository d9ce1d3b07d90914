"""How fast three ways of the models' code are, beside what they replaced: `python -m tests.models.speed offsets`.

`offsets`: character spans of a response's tokens. `packs`: scoring many responses to a prompt, forward and backward.
`texts`: embedding a verifier's texts one by one. CPU seconds of one thread, the least of three.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from tests.bench.conftest import SHIPPED_MODELS
from tests.bench.worlds import vit_b_32
from tests.models.test_offsets import TOKENIZERS, by_prefixes
from tests.pocket_models import PocketWorld, stir

from fisao_pipeline.models import policy as policy_module
from fisao_pipeline.models.offsets import decode_with_offsets
from fisao_pipeline.models.packing import pack_count
from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.prompts import PromptBatch
from fisao_pipeline.models.verifier import DualEncoderVerifier


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def least(run: Callable[[], object]) -> float:
    run()
    found = []
    for _ in range(3):
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return min(found) * 1e3


def offsets() -> None:
    for name in ("sentencepiece with bytes, blank stripped", "byte-level"):
        tokenizer = TOKENIZERS[name]
        for text in ("a dog and a cat on a table, ", "中文🙂é"):
            for tokens in (128, 512, 2048):
                ids = tokenizer(text * tokens, add_special_tokens=False)["input_ids"][:tokens]
                plain, ours = (least(partial(way, tokenizer, ids)) for way in (by_prefixes, decode_with_offsets))
                say(f"{name:42} {text[:5]!r:9} {tokens:5} tokens: {plain:8.1f} ms, now {ours:6.1f} ms")


def score(policy: Policy, batch: PromptBatch, copies: int, tokens: int) -> torch.Tensor:
    policy.model.zero_grad()
    ids = torch.randint(300, 450, (2 * copies, tokens), generator=torch.Generator().manual_seed(0))
    mask, owners = torch.ones_like(ids, dtype=torch.bool), [row // copies for row in range(2 * copies)]
    logprobs, _ = policy.score(batch, ids, mask, 1.0, prompt_of_row=owners)
    logprobs.sum().backward()
    return logprobs.detach()


def packs() -> None:
    world = PocketWorld.make(SHIPPED_MODELS, count=2)
    policy = stir(world.policy())
    batch = world.batch(policy, 2)
    for tokens in (24, 48, 128):
        for copies in (4, 8, 16, 32):
            run = partial(score, policy, batch, copies, tokens)
            took, found = [], []
            for way in (lambda *_: 1, pack_count):
                policy_module.pack_count = way
                found.append(run())
                took.append(least(run) / (2 * copies))
            count = pack_count(batch.input_ids.shape[1], [[tokens] * copies], policy._linear_tokens)
            gap = float((found[0] - found[1]).abs().max())
            before, now = took
            say(f"{tokens:3} tokens, K={copies:2}: {before:5.1f} ms each, now {now:5.1f} in {count:2}, apart {gap:.1e}")


def one_by_one(verifier: DualEncoderVerifier, said: list[str]) -> None:
    for text in said:
        verifier._embed_text(text)


@torch.no_grad()
def texts() -> None:
    names = ("dog", "traffic light", "red cup", "cat")
    said = [f"a photo of a {name} {number}" for number in range(16) for name in names]
    for verifier in (PocketWorld.make(SHIPPED_MODELS, count=1).verifier(), vit_b_32()):
        ids = verifier.processor.tokenizer(said, padding=True, return_tensors="pt")
        batched = least(partial(verifier._text_embeddings, ids)) / len(said)
        alone = least(partial(one_by_one, verifier, said)) / len(said)
        say(f"{verifier.model.num_parameters():,} parameters: {batched:.1f} ms a text in a batch, alone {alone:.1f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"offsets": offsets, "packs": packs, "texts": texts}[sys.argv[1]]()
