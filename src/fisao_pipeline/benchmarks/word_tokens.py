"""Tokens in the way of the Penn Treebank, as NLTK's `word_tokenize` gives them, without the data file that it loads."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

# Words, hyphens within them and commas after them, sentences ended by one sign after two letters or more: of such text,
# as most captions are, one pattern gives the tokens that NLTK takes many times as long for.
_WORD = r"[a-z]+(?:-[a-z]+)*"
_SENTENCE = rf"(?:{_WORD},?\s+)*(?:{_WORD}-)?[a-z]{{2,}}[.!?]"
_PLAIN = re.compile(rf"\s*(?:{_SENTENCE}\s+)*(?:{_SENTENCE}|(?:{_WORD},?\s+)*{_WORD})\s*")
# What the tokenizer cuts in two without a blank; none of the parts names an object.
_CONTRACTIONS = re.compile(r"\b(?:cannot|gimme|gonna|gotta|lemme|wanna|whaddya|whatcha)\b")
_TOKEN = re.compile(rf"{_WORD}|[,.!?]")


def treebank_tokens(text: str) -> list[str]:
    """Tokens of lower-case text: those of `word_tokenize`, except around abbreviations, which that has learnt."""
    if _PLAIN.fullmatch(text) and not _CONTRACTIONS.search(text):
        return _TOKEN.findall(text)
    split, tokenize = _nltk()
    return [token for sentence in split(text) for token in tokenize(sentence)]


@lru_cache(maxsize=1)
def _nltk() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    from nltk.tokenize import NLTKWordTokenizer  # noqa: PLC0415 - slow to import
    from nltk.tokenize.punkt import PunktSentenceTokenizer  # noqa: PLC0415

    return PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize
