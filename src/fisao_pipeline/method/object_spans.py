"""Where a response names an object: mentions as character spans, and the tokens that carry them.

FiSAO rewards the tokens of object mentions and nothing else, so this module decides what is rewarded. It is string
work only: the policy's tokenizer enters as character offsets, never as token ids, because policy and verifier do not
share a tokenizer.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fisao_pipeline.method.vocabulary import PHRASE_END, WORD, ObjectVocabulary, word_key

__all__ = ["Mention", "ObjectVocabulary", "find_mentions", "mark_repeats", "mention_token_spans"]

_GAP = re.compile(r"[\s\u200b\-\u2010\u2011]+")
_HYPHENS = "-\u2010\u2011"


@dataclass(frozen=True, slots=True)
class Mention:
    """One object named in a text.

    Attributes:
        category: Category name of the vocabulary.
        text: The words as written, ``source_text[char_start:char_end]``.
        char_start: First character, counted in code points of the original text.
        char_end: One past the last character.
    """

    category: str
    text: str
    char_start: int
    char_end: int


def find_mentions(text: str, vocabulary: ObjectVocabulary) -> list[Mention]:
    """Find the objects that a text names, in order, without overlap, the longest name first.

    Words are compared without regard to case. Between the words of a name any white space or hyphen may stand. A word
    inside a longer hyphenated compound is no mention ("man-made" names no man), as in CHAIR's tokenizer. One pass over
    the words of the text along a trie of the vocabulary's names.

    Args:
        text: The response. Words must be separated (not Chinese or Japanese script).
        vocabulary: The names.

    Returns:
        Mentions whose spans are code points of ``text`` itself, so ``text[m.char_start:m.char_end] == m.text``.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    words = [word_key(text[start:end]) for start, end in spans]
    mentions: list[Mention] = []
    position = 0
    while position < len(words):
        if words[position] not in vocabulary.trie:
            position += 1
            continue
        length, category = _longest_name(text, spans, words, position, vocabulary.trie)
        if length and category is not None:
            start, end = spans[position][0], spans[position + length - 1][1]
            mentions.append(Mention(category, text[start:end], start, end))
        position += length or 1
    return mentions


def _longest_name(
    text: str, spans: list[tuple[int, int]], words: list[str], position: int, trie: dict[str, Any]
) -> tuple[int, str | None]:
    """Number of words and category of the longest name that starts at a word; (0, None) when none does."""
    best: tuple[int, str | None] = (0, None)
    if _hyphenated(text, spans, position - 1):
        return best
    node = trie
    for last in range(position, len(words)):
        if last > position and not _GAP.fullmatch(text, spans[last - 1][1], spans[last][0]):
            break
        if words[last] not in node:
            break
        node = node[words[last]]
        if PHRASE_END in node and not _hyphenated(text, spans, last):
            best = (last - position + 1, node[PHRASE_END])
    return best


def _hyphenated(text: str, spans: list[tuple[int, int]], index: int) -> bool:
    """Whether a single hyphen joins word ``index`` to the next."""
    if not 0 <= index < len(spans) - 1:
        return False
    end = spans[index][1]
    return spans[index + 1][0] == end + 1 and text[end] in _HYPHENS


def mention_token_spans(offsets: Sequence[tuple[int, int]], mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Map mentions to the response tokens that carry them, by overlap of character offsets.

    Tokenizers that put the leading space into the offsets of a token (Llama) and those that cut one character into
    several tokens (byte-level BPE) are both covered: a token counts when it shares a character with the mention.
    Tokens of no width (special tokens, padding) are passed over.

    Args:
        offsets: Character offsets ``(start, end)`` of each response token in the text the mentions were found in.
        mentions: The mentions.

    Returns:
        Token spans ``[start, end)``, one per mention.

    Raises:
        ValueError: No token covers a mention, or the offsets run backwards.
    """
    indices = [index for index, (start, end) in enumerate(offsets) if end > start]
    starts = [offsets[index][0] for index in indices]
    ends = [offsets[index][1] for index in indices]
    if any(a > b for values in (starts, ends) for a, b in pairwise(values)):
        raise ValueError("offsets run backwards; they must be those of one text, in the order of its tokens")
    spans = []
    for mention in mentions:
        blank = len(mention.text) - len(mention.text.lstrip())
        first = bisect_right(ends, mention.char_start + blank)
        last = bisect_left(starts, mention.char_end)
        if first >= last:
            raise ValueError(
                f"no token covers {mention.text!r} at characters {mention.char_start}:{mention.char_end}; "
                f"the {len(indices)} tokens reach from {starts[0] if starts else 0} to {ends[-1] if ends else 0}"
            )
        spans.append((indices[first], indices[last - 1] + 1))
    return spans


def mark_repeats(categories: Sequence[str]) -> list[bool]:
    """True from the second mention of a category within one response on; such a mention earns nothing positive."""
    seen: set[str] = set()
    # set.add returns None, so each category is recorded after it was looked up.
    return [category in seen or bool(seen.add(category)) for category in categories]  # type: ignore[func-returns-value]
