"""Objects and sentences in responses: found, scored by the verifier, labelled by the annotations; one row per thing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fisao_pipeline.method.object_spans import (
    ObjectVocabulary,
    find_mentions,
    mark_repeats,
    mention_token_spans,
    modifier_starts,
)
from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier
from fisao_pipeline.params.reward_annotation import RewardAnnotationParams

MENTION_COLUMNS = {
    "response_id": "str",
    "image_id": "str",
    "split": "str",
    "category": "str",
    "text": "str",
    "modifiers": "str",
    "char_start": "int64",
    "char_end": "int64",
    "token_start": "int64",
    "token_end": "int64",
    "repeated": "bool",
}


@dataclass(frozen=True)
class GroundTruth:
    """What the annotations know, in the vocabulary's names.

    Attributes:
        objects: True categories of each annotated image; images without annotations are left out.
        categories: What the annotations would have marked wherever it is visible, whether any image shows it or not.
    """

    objects: Mapping[str, set[str]]
    categories: frozenset[str]

    @classmethod
    def read(
        cls, manifest: pd.DataFrame, annotated_categories: Collection[str], vocabulary: ObjectVocabulary
    ) -> GroundTruth:
        """Read the two artifacts; names outside the vocabulary are left out."""

        def canonical(names: Collection[str]) -> set[str]:
            return {name for name in map(vocabulary.canonical, names) if name is not None}

        rows = zip(manifest["image_id"], manifest["objects"], strict=True)
        objects = {image_id: canonical(names) for image_id, names in rows if names is not None}
        return cls(objects, frozenset(canonical(annotated_categories)))


def mention_table(responses: pd.DataFrame, vocabulary: ObjectVocabulary, modifiers: int = 0) -> pd.DataFrame:
    """Every object mention of every response with its character and token span, in order; no scores yet.

    Args:
        responses: The ``responses`` table.
        vocabulary: What counts as an object.
        modifiers: Describing words to keep with a mention, at most.
    """
    rows = []
    for response in responses.itertuples(index=False):
        mentions = find_mentions(response.text, vocabulary)
        offsets = list(zip(response.token_starts, response.token_ends, strict=True))
        spans = mention_token_spans(offsets, mentions)
        repeats = mark_repeats([m.category for m in mentions])
        phrases = modifier_starts(response.text, mentions, modifiers)
        for mention, phrase, (start, end), repeated in zip(mentions, phrases, spans, repeats, strict=True):
            place = (mention.char_start, mention.char_end, start, end, repeated)
            who = (response.response_id, response.image_id, response.split)
            described = " ".join(response.text[phrase : mention.char_start].split())
            rows.append((*who, mention.category, mention.text, described, *place))
    return pd.DataFrame(rows, columns=list(MENTION_COLUMNS)).astype(MENTION_COLUMNS)


def score_mentions(
    mentions: pd.DataFrame, verifier: Verifier, params: RewardAnnotationParams, open_image: ImageOpener
) -> pd.DataFrame:
    """The table with the verifier's ``score`` of each mention, its ``modifiers`` before it where there are any."""
    words = mentions["category"] if params.score_words == "category" else mentions["text"].str.lower()
    phrases = (
        f"{described} {word}".lstrip() for described, word in zip(mentions["modifiers"].str.lower(), words, strict=True)
    )
    texts = [params.template.format(phrase) for phrase in phrases]
    scores = verifier.score(mentions["image_id"].tolist(), texts, open_image)
    return mentions.assign(score=scores.double().numpy())


def label_mentions(mentions: pd.DataFrame, truth: GroundTruth) -> pd.DataFrame:
    """The table with ``label``: ``correct`` or ``hallucinated``, null where the annotations cannot know.

    They cannot know of an image that is not annotated, nor of a category that they do not declare.
    """
    labels: list[str | None] = []
    for image_id, category in zip(mentions["image_id"], mentions["category"], strict=True):
        if image_id not in truth.objects or category not in truth.categories:
            labels.append(None)
        else:
            labels.append("correct" if category in truth.objects[image_id] else "hallucinated")
    return mentions.assign(label=pd.Series(labels, index=mentions.index, dtype="str"))


def sentence_scores(
    responses: pd.DataFrame, verifier: Verifier, open_image: ImageOpener
) -> tuple[Float[Tensor, " b"], float]:
    """S of each whole response, cut to the verifier's context, and the share that was cut."""
    before = verifier.truncated_texts
    scores = verifier.score(
        responses["image_id"].tolist(), responses["text"].tolist(), open_image, whole_responses=True
    )
    unique = max(1, responses["text"].nunique())
    return scores, (verifier.truncated_texts - before) / unique


def response_labels(responses: pd.DataFrame, mentions: pd.DataFrame) -> pd.Series:
    """``hallucinating`` with a hallucinated mention, ``clean`` with correct ones only, null without any label."""
    labelled = mentions.dropna(subset="label")
    wrong = set(labelled.loc[labelled["label"] == "hallucinated", "response_id"])
    seen = set(labelled["response_id"])
    labels = [("hallucinating" if r in wrong else "clean") if r in seen else None for r in responses["response_id"]]
    return pd.Series(labels, index=responses.index, dtype="str")


def response_score_table(
    responses: pd.DataFrame, mentions: pd.DataFrame, verifier: Verifier, open_image: ImageOpener
) -> pd.DataFrame:
    """``sentence_score`` and ``label`` of each calibration response; its embeddings are there since the calibration."""
    chosen = responses[responses["split"] == "calibration"].reset_index(drop=True)
    scores, _ = sentence_scores(chosen, verifier, open_image)
    return chosen[["response_id", "split"]].assign(
        sentence_score=scores.double().numpy(), label=response_labels(chosen, mentions)
    )


def score_tensor(mentions: pd.DataFrame) -> Float[Tensor, " m"]:
    """Scores of the rows, cosines, in the precision that they are kept in."""
    return torch.tensor(mentions["score"].tolist(), dtype=torch.float64)


def as_mask(mask: pd.Series) -> Bool[Tensor, " m"]:
    """The column as a tensor; what is null is not."""
    return torch.tensor(mask.fillna(False).tolist(), dtype=torch.bool)
