"""Several completions of one prompt behind a single copy of it: the prompt, most of the sequence, is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Sequences of the form prompt, completion, completion, …; each completion sees its prompt and itself only.

    Attributes:
        input_ids: [n, s]; padding on the left of the prompt and on the right of the completions.
        position_ids: [n, s]; every completion starts where its prompt ends.
        attention_mask: True where a token (row) may look at another (column), [n, 1, s, s].
        predictor: For each completion token the flat place in [n · s] of the state that predicts it, [b, t].
    """

    input_ids: Int[Tensor, "n s"]
    position_ids: Int[Tensor, "n s"]
    attention_mask: Bool[Tensor, "n 1 s s"]
    predictor: Int[Tensor, "b t"]


def pack_completions(
    prompt_ids: Int[Tensor, "n p"],
    prompt_mask: Bool[Tensor, "n p"],
    completion_ids: Int[Tensor, "b t"],
    completion_mask: Bool[Tensor, "b t"],
    prompt_of_row: Sequence[int],
    fill_id: int = 0,
) -> Packed:
    """Pack completions behind their prompts.

    Args:
        prompt_ids: Prompts, padded on the left.
        prompt_mask: True on tokens.
        completion_ids: Completions, padded on the right.
        completion_mask: True on tokens.
        prompt_of_row: For each completion the row of its prompt.
        fill_id: Fills up; not a token that stands for an image.

    Raises:
        ValueError: If ``prompt_of_row`` does not name a prompt for each completion.
    """
    count, width = prompt_ids.shape
    if len(prompt_of_row) != len(completion_ids) or not all(0 <= row < count for row in prompt_of_row):
        raise ValueError(f"pack_completions: {len(completion_ids)} completions, rows {list(prompt_of_row)} of {count}")
    device = prompt_ids.device
    lengths = completion_mask.sum(dim=1).tolist()
    starts, filled = [], [width] * count
    for row, length in zip(prompt_of_row, lengths, strict=True):
        starts.append(filled[row])
        filled[row] += length
    total = max(filled)
    owner = torch.tensor(prompt_of_row, device=device)[:, None]
    steps = torch.arange(completion_ids.shape[1], device=device)
    places = torch.tensor(starts, device=device)[:, None] + steps
    # Segment 0 is the prompt, 1, 2, … the completions, -1 padding.
    segment = torch.full((count, total), -1, device=device)
    segment[:, :width] = torch.where(prompt_mask, 0, -1)
    ids = torch.full((count, total), fill_id, dtype=prompt_ids.dtype, device=device)
    ids[:, :width] = prompt_ids
    positions = torch.arange(total, device=device).expand(count, total).clone()
    rows, columns = owner.expand_as(places)[completion_mask], places[completion_mask]
    ids[rows, columns] = completion_ids[completion_mask]
    positions[rows, columns] = (width + steps).expand_as(places)[completion_mask]
    number = torch.arange(1, len(completion_ids) + 1, device=device)[:, None].expand_as(places)
    segment[rows, columns] = number[completion_mask]
    query, key = segment[:, :, None], segment[:, None, :]
    causal = torch.ones((total, total), dtype=torch.bool, device=device).tril()
    allowed = causal & (key >= 0) & ((key == 0) | (key == query))
    # A padded row sees itself: a row that sees nothing would be NaN.
    allowed = allowed | torch.eye(total, dtype=torch.bool, device=device)
    # A completion's first token is predicted by the prompt's last, the others by the token before.
    before = torch.where(steps == 0, width - 1, places - 1)
    return Packed(ids, positions, allowed[:, None], owner * total + before)
