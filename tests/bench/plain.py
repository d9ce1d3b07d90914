"""The plain ways of doing what the fast path does, as they stand in tutorials, and floors that no way can be below."""

from collections.abc import Sequence

import pandas as pd
import torch
from tests.pocket_models import PocketWorld

from fisao_pipeline.models.policy import Policy
from fisao_pipeline.models.verifier import DualEncoderVerifier
from fisao_pipeline.training.rollouts import RolloutBatch


def processed(policy: Policy, world: PocketWorld, prompts: Sequence[str], image_ids: Sequence[str]) -> dict:
    """What the processor makes of prompts, pixels included, as `generate` and `forward` take it."""
    texts = [policy.encode.chat_text(prompt) for prompt in prompts]
    images = [world.open_image(image_id) for image_id in image_ids]
    return dict(policy.processor(text=texts, images=images, padding=True, return_tensors="pt").to(policy.device))


@torch.no_grad()
def generate(policy: Policy, world: PocketWorld, prompts: pd.DataFrame, tokens: int, at_once: int) -> None:
    """Sample by `generate`, each row of prompts a sequence of its own, ``at_once`` of them a call."""
    for start in range(0, len(prompts), at_once):
        part = prompts.iloc[start : start + at_once]
        inputs = processed(policy, world, part["prompt"].tolist(), part["image_id"].tolist())
        drawn = policy.model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            suppress_tokens=policy.suppressed_ids.tolist(),
        )
        policy.processor.batch_decode(drawn[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def token_logprobs(policy: Policy, world: PocketWorld, rollouts: RolloutBatch, rows: Sequence[int]) -> torch.Tensor:
    """Log π by a whole forward pass of each sequence with its picture, and a softmax over all of its logits."""
    part = rollouts.rows(rows)
    inputs = processed(policy, world, part.prompts, part.image_ids)
    mask = part.completion_mask
    ids = torch.where(mask, part.completion_ids, policy.kind.pad_id)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], dim=1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
    logits = policy.model(**inputs).logits.float()
    logits[..., policy.suppressed_ids] = float("-inf")
    width = ids.shape[1]
    logprobs = logits[:, -width - 1 : -1].log_softmax(dim=-1)
    return torch.where(mask, logprobs.gather(-1, ids[..., None])[..., 0], 0.0)


@torch.no_grad()
def score_each_token(verifier: DualEncoderVerifier, world_open, responses: pd.DataFrame, tokenizer) -> int:
    """One forward pass of the whole CLIP for each token of each response; returns how many."""
    passes = 0
    for response in responses.itertuples(index=False):
        image = world_open(response.image_id)
        for token_id in response.token_ids:
            word = tokenizer.decode([token_id], skip_special_tokens=True).strip() or "."
            inputs = verifier.processor(
                text=[word], images=[image], return_tensors="pt", truncation=True, max_length=verifier.context_tokens
            )
            verifier.model(**inputs)
            passes += 1
    return passes
