"""Tokens in the way of the Penn Treebank, as NLTK's `word_tokenize` gives them, without the data file that it loads."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

# Words and numbers, hyphens within them and commas after them: most captions are like this, and one pattern gives the
# tokens that NLTK takes many times as long for. Sentences are taken apart here too where each ends with one sign after
# two letters or more; a number or a single letter before a full stop may go on with the sentence.
_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_WORDS = rf"(?:{_WORD},?\s+)*"
_SENTENCE = rf"{_WORDS}(?:{_WORD}-)?[a-z]{{2,}}[.!?]"
_PLAIN_TEXT = re.compile(rf"\s*(?:{_SENTENCE}\s+)*(?:{_SENTENCE}|{_WORDS}{_WORD})\s*")
_PLAIN_SENTENCE = re.compile(rf"{_WORDS}{_WORD}[.!?]?")
# What the tokenizer cuts in two without a blank; none of the parts names an object.
_CONTRACTIONS = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna|whaddya|whatcha)\b")
_TOKEN = re.compile(rf"{_WORD}|[,.!?]")


def treebank_tokens(text: str) -> list[str]:
    """Tokens of lower-case text: those of `word_tokenize`, except around abbreviations, which that has learnt."""
    if _is_plain(text, _PLAIN_TEXT):
        return _TOKEN.findall(text)
    split, tokenize = _nltk()
    return [
        token
        for sentence in split(text)
        for token in (_TOKEN.findall(sentence) if _is_plain(sentence, _PLAIN_SENTENCE) else tokenize(sentence))
    ]


def _is_plain(text: str, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.fullmatch(text)) and not _CONTRACTIONS.search(text)


@lru_cache(maxsize=1)
def _nltk() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    from nltk.tokenize import NLTKWordTokenizer  # noqa: PLC0415 - slow to import
    from nltk.tokenize.punkt import PunktSentenceTokenizer  # noqa: PLC0415

    return PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize
