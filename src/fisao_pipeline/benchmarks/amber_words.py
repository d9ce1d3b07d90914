"""The nouns and the similarity that AMBER rests on: built in, or the published ones where a user has installed them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Literal

from fisao_pipeline.benchmarks.amber import FindNouns, Similar

Nouns = Literal["pattern", "nltk"]
SIMILARITY_ABOVE = 0.8
EXACT = "exact"
_CACHED_PAIRS = 1_000_000
_CORPORA = "punkt_tab averaged_perceptron_tagger_eng wordnet"


def choose_nouns(name: Nouns, known: Collection[str]) -> FindNouns:
    """How nouns are found.

    Args:
        name: ``nltk``: as the reference does, with three data sets of NLTK that are not part of it. ``pattern``: with
            the tagger that textblob holds, which needs none; a noun is taken as it is written where that is a known
            word, else in the singular.
        known: Words of the relations.

    Raises:
        ValueError: NLTK's data are not there; the message holds the command.
    """
    return _nltk_nouns() if name == "nltk" else _pattern_nouns(known)


def _pattern_nouns(known: Collection[str]) -> FindNouns:
    from textblob.en import tag  # noqa: PLC0415 - takes seconds to import
    from textblob.en.inflect import singularize  # noqa: PLC0415

    def find(text: str) -> list[str]:
        nouns = [word for word, kind in tag(text) if kind.startswith("NN")]
        return [noun if noun in known else singularize(noun) for noun in nouns]

    return find


def _nltk_nouns() -> FindNouns:
    import nltk  # noqa: PLC0415 - slow to import
    from nltk.stem import WordNetLemmatizer  # noqa: PLC0415

    lemmatize = WordNetLemmatizer().lemmatize

    def find(text: str) -> list[str]:
        return [lemmatize(word) for word, kind in nltk.pos_tag(nltk.word_tokenize(text)) if kind.startswith("NN")]

    try:
        find("a dog")
    except LookupError:
        raise ValueError(
            f"score_predictions.amber.nouns 'nltk' needs NLTK's data: `python -m nltk.downloader {_CORPORA}`; without "
            "them set it to 'pattern'"
        ) from None
    return find


def choose_similarity(name: str) -> Similar:
    """How words are compared.

    Args:
        name: ``exact``: only equal words are similar. Else a spaCy model with word vectors that the user has installed,
            such as ``en_core_web_lg`` of the published figures: a cosine above 0.8.

    Raises:
        ValueError: spaCy or the model is not there, or it has no word vectors; the message holds the command.
    """
    if name == EXACT:
        return lambda one, other: one == other
    try:
        import spacy  # noqa: PLC0415 - an optional package

        nlp = spacy.load(name)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"score_predictions.amber.similarity {name!r} cannot be loaded ({error}): `pip install spacy && python -m "
            f"spacy download {name}`, or set it to 'exact'"
        ) from error
    if not nlp.vocab.vectors_length:
        raise ValueError(f"score_predictions.amber.similarity {name!r} holds no word vectors; use en_core_web_lg")
    read: Callable[[str], object] = lru_cache(maxsize=None)(nlp)

    @lru_cache(maxsize=_CACHED_PAIRS)
    def similar(one: str, other: str) -> bool:
        return read(one).similarity(read(other)) > SIMILARITY_ABOVE  # type: ignore[attr-defined]

    return similar
