"""The pictures that a report shows: both models' answers, the objects they name, and what each would earn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MODELS = ("base", "aligned")
# By the benchmark's judgement and not by the reward, which is what training aimed at.
KINDS = {"win": "better", "lose": "worse", "tie": "tie"}
# An answer may be of any length; what is shown of it need not.
SHOWN_CHARACTERS = 2000


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
    """One model's answer with its mentions in order."""

    prompt: str
    text: str
    mentions: tuple[Mention, ...]

    @property
    def reward(self) -> float:
        """Sum of the mentions' rewards."""
        return sum(mention.reward for mention in self.mentions)

    def pieces(self) -> Iterator[tuple[str, Mention | None]]:
        """The text cut at its mentions, nothing lost and nothing twice; of a very long one the beginning."""
        done = 0
        for mention in self.mentions:
            if mention.start < done or mention.end > SHOWN_CHARACTERS:
                continue
            yield self.text[done : mention.start], None
            yield self.text[mention.start : mention.end], mention
            done = mention.end
        rest = self.text[done:SHOWN_CHARACTERS]
        yield rest + ("…" if len(self.text) > SHOWN_CHARACTERS else ""), None


@dataclass(frozen=True)
class Case:
    """One picture under one decoding, as `comparison` chose it.

    Attributes:
        kind: ``better``, ``worse`` or ``tie``: whether the aligned model's answers name absent objects less often.
        decoding: How both models answered.
        image_id: Of the picture.
        true_objects: What the annotations say is there.
        false_mentions: Mentions of absent objects in all answers, of each model.
        recall_change: Aligned − base; None where nothing is annotated.
        answers: Of each model, in the same order.
    """

    kind: str
    decoding: str
    image_id: str
    true_objects: tuple[str, ...]
    false_mentions: Mapping[str, int]
    recall_change: float | None
    answers: Mapping[str, tuple[Answer, ...]]

    @property
    def categories(self) -> list[str]:
        """Everything that is there or is named, sorted."""
        named = {m.category for answers in self.answers.values() for answer in answers for m in answer.mentions}
        return sorted(named.union(self.true_objects))

    @property
    def reward_change(self) -> float:
        """Summed reward of the aligned answers minus that of the base answers."""
        base, aligned = (sum(answer.reward for answer in self.answers[model]) for model in MODELS)
        return aligned - base


def shown_cases(
    examples: Mapping[str, Mapping[str, Any]], predictions: pd.DataFrame, mentions: pd.DataFrame
) -> list[Case]:
    """The comparison's examples with whole answers and rewards; by decoding, then better, worse, tie.

    Args:
        examples: ``comparison["examples"]``.
        predictions: The ``predictions`` table that it is of.
        mentions: The ``prediction_mentions`` table of these predictions.
    """
    captions = predictions[predictions["task"] == "caption"]
    cases = []
    for decoding, chosen in examples.items():
        ids = {example["image_id"] for kind in KINDS for example in chosen[kind]}
        rows = captions[captions["decoding"].eq(decoding) & captions["image_id"].isin(ids)]
        found = mentions[mentions["decoding"].eq(decoding) & mentions["image_id"].isin(ids)]
        answers = _answers(rows, _by_answer(found))
        cases += [_case(KINDS[kind], decoding, example, answers) for kind in KINDS for example in chosen[kind]]
    return cases


Answers = Mapping[tuple[str, str], Sequence[Answer]]
"""By model and image."""


def _case(kind: str, decoding: str, example: Mapping[str, Any], answers: Answers) -> Case:
    false = {model: sum(len(answer["hallucinated"]) for answer in example[model]["answers"]) for model in MODELS}
    image_id = example["image_id"]
    return Case(
        kind,
        decoding,
        image_id,
        tuple(example["true_objects"]),
        false,
        example["recall_change"],
        {model: tuple(answers.get((model, image_id), ())) for model in MODELS},
    )


def _by_answer(mentions: pd.DataFrame) -> dict[tuple[Any, ...], list[Mention]]:
    found: dict[tuple[Any, ...], list[Mention]] = {}
    for row in mentions.sort_values("char_start", kind="stable").itertuples(index=False):
        label = None if pd.isna(row.label) else row.label
        mention = Mention(row.char_start, row.char_end, row.category, row.score, row.reward, label, bool(row.repeated))
        found.setdefault((row.model, row.prompt_id, row.sample_index), []).append(mention)
    return found


def _answers(rows: pd.DataFrame, by_answer: Mapping[tuple[Any, ...], list[Mention]]) -> Answers:
    answers: dict[tuple[str, str], list[Answer]] = {}
    for row in rows.sort_values(["image_id", "prompt_id", "sample_index"], kind="stable").itertuples(index=False):
        found = tuple(by_answer.get((row.model, row.prompt_id, row.sample_index), ()))
        answers.setdefault((row.model, row.image_id), []).append(Answer(row.prompt, row.response, found))
    return answers
