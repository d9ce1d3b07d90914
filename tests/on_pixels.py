"""Log-probabilities of given completions by transformers alone: the processor's pixels, the class's own forward."""

from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

# Of each token of a prompt, and what a completion's tokens have.
_OF_TOKENS = {"input_ids": None, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 0}
# What some processors add for their own use.
_NO_ARGUMENTS = ("labels", "rows", "cols", "num_crops")


def pixels(processor, model_type: str, texts: Sequence[str], images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
    """What the processor makes of a batch of texts in chat format, padded on the left by the processor itself.

    InstructBLIP's would pad between image and text, so its rows are padded here, those for the Q-Former on the right.
    """
    if model_type == "instructblip":
        return _instructblip_pixels(processor, texts, images)
    encoded = processor(
        text=list(texts), images=[[image] for image in images], padding=True, padding_side="left", return_tensors="pt"
    )
    return {name: value for name, value in encoded.items() if name not in _NO_ARGUMENTS}


def _instructblip_pixels(processor, texts, images) -> dict[str, torch.Tensor]:
    rows = [processor(text=text, images=image, return_tensors="pt") for text, image in zip(texts, images, strict=True)]
    encoded = {"pixel_values": torch.cat([row["pixel_values"] for row in rows])}
    for name in ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask"):
        side = "right" if name.startswith("qformer") else "left"
        encoded[name] = pad_sequence([row[name][0] for row in rows], batch_first=True, padding_side=side)
    return encoded


@torch.no_grad()
def direct_logprobs(
    model,
    inputs: dict[str, torch.Tensor],
    completions: Sequence[torch.Tensor],
    temperature: float,
    suppressed: Sequence[int],
    padding: Literal["left", "right"],
) -> list[torch.Tensor]:
    """One forward pass on pixels over prompts with a completion each, and a log-softmax over all its logits.

    Args:
        model: Any model of transformers, or one that PEFT has wrapped.
        inputs: Of ``pixels``.
        completions: Token ids, one tensor a prompt.
        temperature: Divides the logits.
        suppressed: Tokens that have no probability.
        padding: The side on which rows, prompt and completion together, are padded.
    """
    counts = inputs["attention_mask"].bool()
    after = {**_OF_TOKENS, "token_type_ids": int(model.config.model_type == "paligemma")}
    rows = {}
    for name, value in after.items():
        if name in inputs:
            rows[name] = [
                torch.cat([row[mask], ids if value is None else torch.full_like(ids, value)])
                for row, mask, ids in zip(inputs[name], counts, completions, strict=True)
            ]
    padded = {
        # A padded place holds a token like any other and no attention.
        name: pad_sequence(
            of_rows, batch_first=True, padding_side=padding, padding_value=5 if name == "input_ids" else 0
        )
        for name, of_rows in rows.items()
    }
    logits = model(**{**inputs, **padded}).logits.double() / temperature
    logits[..., list(suppressed)] = -torch.inf
    logprobs = logits.log_softmax(-1)
    found = []
    for row, (ids, whole) in enumerate(zip(completions, rows["input_ids"], strict=True)):
        end = logprobs.shape[1] if padding == "left" else len(whole)
        found.append(logprobs[row, end - len(ids) - 1 : end - 1].gather(-1, ids[:, None]).squeeze(-1))
    return found
