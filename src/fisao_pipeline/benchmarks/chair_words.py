"""Which categories a caption names for CHAIR: by this project's span matcher, or as its reference implementation reads.

The reference's chain: lower case, NLTK's `word_tokenize`, pattern's `singularize`, names of two words, vocabulary.
pattern has left the package index, and `word_tokenize` wants a data file for its sentences. Here textblob's copy of the
singularizer and NLTK's sentence splitter untrained stand in: the 500 captions of LLaVA-1.5-7B that the test reads give
the very words of the reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from importlib.resources import files
from typing import Literal

from fisao_pipeline.benchmarks.word_tokens import treebank_tokens
from fisao_pipeline.method.object_spans import ObjectVocabulary, find_mentions

WordChain = Callable[[str], list[str]]
"""From a caption to the categories it names, in order, every mention counted."""

WordChainName = Literal["spans", "reference"]

# Two blanks stand before these words in the reference's synonyms.txt and it splits at ", ", so that its list holds
# " motor bike" and no caption ever names one. A habit of its "coco" alone.
NEVER_FOUND = frozenset({"motor bike", "cheesecake"})
_CACHED_WORDS = 100_000


def choose_word_chain(name: WordChainName, vocabulary: ObjectVocabulary) -> WordChain:
    """The chain of a setting ``word_chain``.

    Raises:
        ValueError: An unknown name.
    """
    chains: dict[str, Callable[[ObjectVocabulary], WordChain]] = {"spans": spans_chain, "reference": reference_chain}
    if name not in chains:
        raise ValueError(f"word_chain must be one of {', '.join(chains)}, not {name!r}")
    return chains[name](vocabulary)


def spans_chain(vocabulary: ObjectVocabulary) -> WordChain:
    """Find categories with this project's span matcher, the one whose mentions are rewarded.

    It finds "bus" and "ties", which the reference's singularizer turns into words that its list does not hold, and
    counts "toilet seat" as one toilet. On 500 real captions of LLaVA-1.5-7B it gives the reference's categories for 477
    and CHAIR_i 0.1267 against 0.1278.
    """
    return lambda caption: [mention.category for mention in find_mentions(caption, vocabulary)]


def reference_chain(vocabulary: ObjectVocabulary) -> WordChain:
    """Find categories as the reference does, odd habits included.

    - Its singularizer makes "bu" of "bus" and "ty" of "ties": "a bus" is never found, "buses" is. It makes "glas" of
      "glass" too, but "wine glas" is among the names of two words.
    - Two words become one name whatever stands around them, greedily from the left; "stove top oven", of three words,
      counts as two ovens. "baby" and "adult" before an animal and "passenger" before "jet" or "train" vanish, else they
      would count as a person.
    - "seat" counts as a chair unless the caption also says "toilet", anywhere.
    - "orange" is the fruit, whatever it describes.
    - "motor bike" and "cheesecake" are never found, see `NEVER_FOUND`.

    Meant for the vocabulary "coco"; of another one its words count, and the names of two words stay those of COCO.

    Source: LisaAnne/Hallucination, utils/chair.py; the double name "train track" is of Maxlinn/CHAIR-metric-standalone.
    """
    categories = {
        " ".join(word.lower().split()): category for category, words in vocabulary.synonyms.items() for word in words
    }
    for word in NEVER_FOUND:
        categories.pop(word, None)
    double_words = _double_words()
    singular = _singularizer()

    def find(caption: str) -> list[str]:
        words = _merge([singular(token) for token in treebank_tokens(caption.lower())], double_words)
        if "toilet" in words:
            words = [word for word in words if word != "seat"]
        return [categories[word] for word in words if word in categories]

    return find


def _merge(words: list[str], double_words: dict[str, str]) -> list[str]:
    merged, position = [], 0
    while position < len(words):
        double = double_words.get(" ".join(words[position : position + 2]))
        merged.append(words[position] if double is None else double)
        position += 1 if double is None else 2
    return merged


@lru_cache(maxsize=1)
def _double_words() -> dict[str, str]:
    text = files("fisao_pipeline.benchmarks").joinpath("chair_double_words.json").read_text(encoding="utf-8")
    return json.loads(text)


@lru_cache(maxsize=1)
def _singularizer() -> Callable[[str], str]:
    from textblob.en.inflect import singularize  # noqa: PLC0415 - takes seconds to import

    return lru_cache(maxsize=_CACHED_WORDS)(singularize)
