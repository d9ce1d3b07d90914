"""Several completions of one prompt behind a single copy of it: the prompt, most of the sequence, is computed once.

Attention costs the square of the sequence, though, over completions that may not see one another. So many or long ones
share out over several copies of the prompt, as many as cost least.
"""

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


def pack_count(prompt: int, groups: Sequence[Sequence[float]], linear_tokens: float) -> int:
    """Into how many packs, each with a copy of the prompt, the completions of a prompt are best shared out.

    A sequence of s tokens costs s · (c + s), in units of one pair of tokens in attention: c of them are what the linear
    layers do for a token. With P tokens of prompt and T of each completion that is least at about m completions a pack:

        m² = (P / T)² (1 + c / P)

    Args:
        prompt: P, tokens of the longest prompt.
        groups: Lengths of the completions of each prompt.
        linear_tokens: c; infinite where it is not known, which gives one pack.

    Returns:
        At most as many as the largest group has completions; the least that cost least.
    """

    def cost(packs: int) -> float:
        parts = [min(packs, len(group)) for group in groups]
        means = [sum(group) / len(group) for group in groups]
        fullest = [-(-len(group) // part) * mean for group, part, mean in zip(groups, parts, means, strict=True)]
        longest = max(*fullest, *map(max, groups))
        return sum(parts) * (prompt + longest) * (linear_tokens + prompt + longest)

    return min(range(1, max(map(len, groups)) + 1), key=cost)


def share_out(prompt_of_row: Sequence[int], lengths: Sequence[int], packs: int) -> tuple[list[int], list[int]]:
    """Deal the completions of each prompt to so many packs, the longest first, each to the shortest pack so far.

    Returns:
        The prompt of each pack, packs of a prompt adjacent, and the pack of each completion.
    """
    rows_of: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompt_of_row):
        rows_of.setdefault(prompt, []).append(row)
    prompts: list[int] = []
    pack_of_row = [0] * len(prompt_of_row)
    for prompt, rows in sorted(rows_of.items()):
        filled = [0] * min(packs, len(rows))
        for row in sorted(rows, key=lambda row: -lengths[row]):
            pack = filled.index(min(filled))
            filled[pack] += lengths[row]
            pack_of_row[row] = len(prompts) + pack
        prompts += [prompt] * len(filled)
    return prompts, pack_of_row


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
