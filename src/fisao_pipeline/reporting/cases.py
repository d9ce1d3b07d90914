"""Which held-out pictures a case study shows, and what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

MODELS = ("base", "aligned")
RULE = (
    "Greedy captions of held-out pictures are ordered by the change of their summed mention reward, aligned minus "
    "base, equal ones by prompt id. A third of the cases are those that gained most, a third those that lost most, and "
    "a third those of the rest that lie nearest to the median change."
)


@dataclass(frozen=True)
class Mention:
    """An object named in an answer: characters [start, end), the verifier's view of it, and the annotations' label."""

    start: int
    end: int
    category: str
    score: float
    reward: float
    label: str | None
    repeated: bool


@dataclass(frozen=True)
class Answer:
    """One model's caption with its mentions in order."""

    model: str
    text: str
    mentions: tuple[Mention, ...]

    @property
    def reward(self) -> float:
        """Sum of the mentions' rewards."""
        return sum(mention.reward for mention in self.mentions)

    def pieces(self) -> Iterator[tuple[str, Mention | None]]:
        """The text cut at its mentions, nothing lost and nothing twice."""
        done = 0
        for mention in sorted(self.mentions, key=lambda m: m.start):
            if mention.start < done:
                continue
            yield self.text[done : mention.start], None
            yield self.text[mention.start : mention.end], mention
            done = mention.end
        yield self.text[done:], None


@dataclass(frozen=True)
class Case:
    """One picture: the prompt, both answers and why it is shown (``gained``, ``typical`` or ``lost``)."""

    kind: str
    prompt_id: str
    image_id: str
    prompt: str
    answers: tuple[Answer, ...]

    @property
    def change(self) -> float:
        """Summed reward of the aligned answer minus that of the base answer."""
        return self.answers[1].reward - self.answers[0].reward


def choose_cases(predictions: pd.DataFrame, mentions: pd.DataFrame, count: int) -> list[Case]:
    """At most ``count`` cases by `RULE`: gained (best first), typical (nearest first), lost (worst first).

    Args:
        predictions: The ``predictions`` table; its greedy captions are read.
        mentions: The ``prediction_mentions`` table.
        count: Cases at most; a third each, what does not divide goes to those that gained.
    """
    greedy = predictions[predictions["task"].eq("caption") & predictions["decoding"].eq("greedy")]
    if greedy.empty:
        return []
    by_answer = _by_answer(mentions[mentions["decoding"].eq("greedy")])
    pairs = {
        prompt_id: rows.drop_duplicates("model").set_index("model")
        for prompt_id, rows in greedy.groupby("prompt_id", sort=True)
    }
    cases = {
        prompt_id: Case("", prompt_id, rows["image_id"].iloc[0], rows["prompt"].iloc[0], _answers(rows, by_answer))
        for prompt_id, rows in pairs.items()
        if set(MODELS) <= set(rows.index)
    }
    changes = pd.Series({prompt_id: case.change for prompt_id, case in cases.items()}, dtype="float64").sort_index()
    third = count // 3
    gained = changes[changes > 0].sort_values(ascending=False, kind="stable").index[: count - 2 * third]
    lost = changes[changes < 0].sort_values(kind="stable").index[:third]
    rest = changes.drop([*gained, *lost])
    typical = (rest - changes.median()).abs().sort_values(kind="stable").index[:third]
    chosen = [(name, i) for name, ids in (("gained", gained), ("typical", typical), ("lost", lost)) for i in ids]
    return [replace(cases[prompt_id], kind=kind) for kind, prompt_id in chosen]


def _by_answer(mentions: pd.DataFrame) -> dict[tuple[str, str], list[Mention]]:
    found: dict[tuple[str, str], list[Mention]] = {}
    for row in mentions.itertuples(index=False):
        label = None if pd.isna(row.label) else row.label
        mention = Mention(row.char_start, row.char_end, row.category, row.score, row.reward, label, row.repeated)
        found.setdefault((row.model, row.prompt_id), []).append(mention)
    return found


def _answers(rows: pd.DataFrame, by_answer: Mapping[tuple[str, str], list[Mention]]) -> tuple[Answer, ...]:
    return tuple(
        Answer(model, rows.loc[model, "response"], tuple(by_answer.get((model, rows.loc[model, "prompt_id"]), ())))
        for model in MODELS
    )
