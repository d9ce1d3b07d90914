"""BLEU-1 to 4, ROUGE-L and CIDEr of captions against reference captions, as pycocoevalcap computes COCO's own figures.

Written anew and tested against pycocoevalcap 1.2 to 1e-9 rather than depended on: that package has had no release since
2020, carries 100 MB of Java archives and a compiled dependency that none of these three needs, and the notice in its
BLEU forbids commercial use. `reference_overlap` is another thing: single responses by sacrebleu and rouge-score, for a
figure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.ratios import RatioMetrics
from fisao_pipeline.benchmarks.scores import Scores, plain_scores
from fisao_pipeline.benchmarks.word_tokens import treebank_tokens

NGRAMS = 4
# What COCO's tokenizer takes out.
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
) | frozenset("(){}")
MEANS: RatioMetrics = {"rouge_l": ("rouge_l", "captions"), "cider": ("cider", "captions")}
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
# They keep BLEU from dividing by zero, and their size is part of its value for a caption without a match.
_TINY, _SMALL = 1e-15, 1e-9

Ngram = tuple[str, ...]


def coco_tokens(text: str) -> str:
    """Lower-case tokens without punctuation, joined by blanks, near to what COCO's tokenizer gives.

    That one is Stanford's, in Java. NLTK's splits words alike but for rare cases; for published figures give captions
    that Stanford's has tokenized, with ``tokens: as_written``.
    """
    return " ".join(token for token in treebank_tokens(text.lower()) if token not in PUNCTUATION)


def ngram_counts(text: str) -> Counter[Ngram]:
    """Runs of one to four words, words being what blanks separate."""
    words = text.split()
    return Counter(
        tuple(words[start : start + size]) for size in range(1, NGRAMS + 1) for start in range(len(words) - size + 1)
    )


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[float], np.ndarray]:
    """BLEU-1 to 4 of a corpus, and of each caption alone [captions, 4].

    Clipped precision of n-grams, geometric mean, and a penalty where captions are shorter than the references nearest
    to them in length (the shorter one of two as near). Of the corpus the counts are summed first; it is no mean of
    captions.
    """
    counts = np.array([_bleu_counts(caption, own) for caption, own in zip(captions, references, strict=True)])
    if not len(counts):
        return [math.nan] * NGRAMS, np.empty((0, NGRAMS))
    single = np.array([_bleu_of(row) for row in counts])
    return _bleu_of(counts.sum(axis=0)), single


def _bleu_counts(caption: str, references: Sequence[str]) -> list[int]:
    """Length, nearest reference length, then n-grams that match and n-grams, for n from 1 to 4."""
    length = len(caption.split())
    nearest = min((abs(len(reference.split()) - length), len(reference.split())) for reference in references)[1]
    most: Counter[Ngram] = Counter()
    for reference in references:
        most |= ngram_counts(reference)
    matching = [0] * NGRAMS
    for ngram, count in ngram_counts(caption).items():
        matching[len(ngram) - 1] += min(count, most[ngram])
    return [length, nearest, *matching, *(max(0, length - size) for size in range(NGRAMS))]


def _bleu_of(counts: np.ndarray) -> list[float]:
    length, nearest = counts[:2]
    values, product = [], 1.0
    for size in range(NGRAMS):
        product *= (counts[2 + size] + _TINY) / (counts[2 + NGRAMS + size] + _SMALL)
        values.append(product ** (1 / (size + 1)))
    ratio = (length + _TINY) / (nearest + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [float(value * penalty) for value in values]


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F of the longest common subsequence of words, β = 1.2; the best precision and the best recall of any reference.

    Words are what single blanks separate: two blanks make an empty word, as in the reference.
    """
    words = caption.split(" ")
    found = [(_common(words, reference.split(" ")), len(reference.split(" "))) for reference in references]
    precision = max(common for common, _ in found) / len(words)
    recall = max(common / length for common, length in found)
    if not precision or not recall:
        return 0.0
    return (1 + _ROUGE_BETA**2) * precision * recall / (recall + _ROUGE_BETA**2 * precision)


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits: a word of ``one`` costs a few operations on a long number."""
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(other)) - 1
    row = full
    for word in one:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return len(other) - row.bit_count()


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each caption, with inverse document frequencies from the references of all of them.

    Mean over n = 1 to 4 of clipped cosines of tf-idf vectors, times a penalty on the difference in length, averaged
    over references, times 10. So the value of a caption depends on the others; of a single image it is 0. Its length is
    the number of its two-word runs, as in the reference.
    """
    per_image = [[ngram_counts(reference) for reference in own] for own in references]
    frequency: Counter[Ngram] = Counter()
    for own in per_image:
        frequency.update({ngram for counts in own for ngram in counts})
    log_images = math.log(len(captions)) if captions else 0.0

    def vector(counts: Counter[Ngram]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        parts: list[dict[Ngram, float]] = [{} for _ in range(NGRAMS)]
        for ngram, count in counts.items():
            parts[len(ngram) - 1][ngram] = count * (log_images - math.log(max(1, frequency[ngram])))
        norms = [math.sqrt(sum(value * value for value in part.values())) for part in parts]
        return parts, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    values = []
    for caption, own in zip(captions, per_image, strict=True):
        parts, norms, length = vector(ngram_counts(caption))
        total = 0.0
        for counts in own:
            other_parts, other_norms, other_length = vector(counts)
            penalty = math.exp(-((length - other_length) ** 2) / (2 * _CIDER_SIGMA**2))
            for part, other, norm, other_norm in zip(parts, other_parts, norms, other_norms, strict=True):
                product = sum(
                    min(value, other.get(ngram, 0.0)) * other.get(ngram, 0.0) for ngram, value in part.items()
                )
                total += penalty * (product / (norm * other_norm) if norm and other_norm else product)
        values.append(10 * total / NGRAMS / len(own))
    return np.array(values)


def score_captions(
    predictions: pd.DataFrame,
    references: Mapping[str, Sequence[str]],
    *,
    tokenize: bool = True,
    settings: BootstrapSettings | None = None,
) -> Scores:
    """BLEU-1 to 4, ROUGE-L and CIDEr of captions.

    Args:
        predictions: ``line``, ``item_id`` (the image) and ``response``.
        references: Reference captions by image.
        tokenize: Whether captions and references are tokenized here; else their blanks separate tokens.
        settings: Resampling, for the means; the document frequencies of CIDEr stay those of all images. BLEU is no mean
            of captions and has no interval.
    """
    own = [list(references[item_id]) for item_id in predictions["item_id"]]
    texts = list(predictions["response"])
    if tokenize:
        texts, own = [coco_tokens(text) for text in texts], [[coco_tokens(text) for text in some] for some in own]
    corpus, single = bleu(texts, own)
    items = predictions[["line", "item_id", "response"]].reset_index(drop=True)
    items = items.assign(
        image_id=items["item_id"],
        captions=1,
        **{f"bleu_{size + 1}": single[:, size] for size in range(NGRAMS)},
        rouge_l=[rouge_l(text, some) for text, some in zip(texts, own, strict=True)],
        cider=cider(texts, own),
    )
    metrics = plain_scores({f"bleu_{size + 1}": value for size, value in enumerate(corpus)})
    metrics |= bootstrap_metrics(items, MEANS, settings)
    values = [metrics[name].value for name in (f"bleu_{NGRAMS}", "rouge_l", "cider")]
    return Scores(
        metrics | plain_scores({"bleu_4_rouge_l_cider_mean": sum(values) / len(values)}),
        items,
        {"tokenizer": "NLTK's Treebank, not COCO's Stanford" if tokenize else "as written", "captions": len(items)},
    )
