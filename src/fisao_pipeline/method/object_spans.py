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

__all__ = ["Mention", "ObjectVocabulary", "find_mentions", "mark_repeats", "mention_token_spans", "modifier_starts"]

_GAP = re.compile(r"[\s\u200b\-\u2010\u2011]+")
_HYPHENS = "-\u2010\u2011"
_BLANKS = re.compile(r"(?:[^\S\r\n]|\u200b)+")
_APOSTROPHES = "'\u2019"
# Words that end a phrase, read from its noun to the left; none of them says what the object looks like or how many
# there are. Closed classes of English, and of the open class of verbs those that captions put before objects.
_ARTICLES_AND_DETERMINERS = (
    "a an the this that these those my your his her its our their some any no every each another other both all such "
    "several many few more most what which whose"
)
_PREPOSITIONS = (
    "about above across after against along alongside amid among around as at atop away before behind below beneath "
    "beside besides between beyond by down during for from in inside into like near nearby next of off on onto "
    "opposite out outside over past per through throughout to toward towards under underneath up upon via with within "
    "without"
)
_CONJUNCTIONS_AND_PRONOUNS = (
    "and or nor but yet so plus if because while where when than then it he she they we you i who there here someone "
    "something"
)
_VERBS_AND_ADVERBS = (
    "is are was were be been being am has have had having do does did can could may might will would must seem seems "
    "appear appears see sees show shows showing shown contain contains containing include includes including feature "
    "features featuring depict depicts depicting hold holds holding carry carries carrying wear wears wearing ride "
    "rides riding eat eats eating use uses using walk walks walking watch watches watching play plays playing catch "
    "catches catching throw throws throwing cut cuts cutting surround surrounds surrounding surrounded chase chases "
    "chasing lead leads leading face faces facing not also only just even still perhaps probably"
)
PHRASE_BOUNDARIES = frozenset(
    " ".join((_ARTICLES_AND_DETERMINERS, _PREPOSITIONS, _CONJUNCTIONS_AND_PRONOUNS, _VERBS_AND_ADVERBS)).split()
)


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


def modifier_starts(text: str, mentions: Sequence[Mention], max_words: int) -> list[int]:
    """Where the phrase around each mention begins: the mention with the words before it that describe it.

    "There are two red umbrellas" → "two red umbrellas"; "a large, brown dog" → "brown dog"; "the man's hat" → "hat".
    From the mention to the left, word by word, until one of

    - the start of the text, a line break, or anything else but blanks between two words (a comma, an apostrophe);
    - a word of ``PHRASE_BOUNDARIES``: articles and determiners, prepositions, conjunctions and pronouns, and a short
      list of verbs and adverbs that captions put before objects;
    - the mention before it;
    - ``max_words`` words. A hyphenated compound ("black-and-white dog") is one word and is taken whole.

    A closed list and no parser: a parser is a model of its own to install, fetch and pin, and its result would change
    with text that comes later, so that a reward would depend on tokens after its own. The price is at the edges: a verb
    that is not in the list is taken along, and what follows a noun ("a dog with spots") never is.

    Args:
        text: The text that the mentions were found in.
        mentions: Its mentions, in order and without overlap, as ``find_mentions`` gives them.
        max_words: Words before the mention at most; 0 leaves the bare mentions.

    Returns:
        For each mention the first character of its phrase, at most ``char_start``; text after the mention is not read.

    Raises:
        ValueError: If ``max_words`` is negative.
    """
    if max_words < 0:
        raise ValueError(f"modifier_starts: max_words must be at least 0, got {max_words}")
    spans = [match.span() for match in WORD.finditer(text)]
    ends = [end for _, end in spans]
    starts, floor = [], 0
    for mention in mentions:
        first = bisect_right(ends, mention.char_start)
        for _ in range(max_words):
            before = _compound_before(text, spans, first)
            if before is None or spans[before][0] < floor:
                break
            first = before
        starts.append(spans[first][0])
        floor = mention.char_end
    return starts


def _compound_before(text: str, spans: list[tuple[int, int]], first: int) -> int | None:
    """First word of the compound that describes word ``first``; None where a phrase ends."""
    if first == 0 or not _BLANKS.fullmatch(text, spans[first - 1][1], spans[first][0]):
        return None
    before = first - 1
    while _hyphenated(text, spans, before - 1):
        before -= 1
    start, end = spans[before]
    after_apostrophe = start > 0 and text[start - 1] in _APOSTROPHES
    is_boundary = before == first - 1 and word_key(text[start:end]) in PHRASE_BOUNDARIES
    return None if after_apostrophe or is_boundary else before
