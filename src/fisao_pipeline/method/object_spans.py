"""Where a response names an object: vocabulary, mentions as character spans, and the tokens that carry them.

FiSAO rewards the tokens of object mentions and nothing else, so this module decides what is rewarded. It is string
work only: the policy's tokenizer enters as character offsets, never as token ids, because policy and verifier do not
share a tokenizer.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

BUILT_IN = {"coco": ("coco_synonyms.txt",), "coco+common": ("coco_synonyms.txt", "common_objects.txt")}
IGNORE_MARK = "!"
COMMENT_MARK = "#"

# A combining accent belongs to the letter before it; \w alone would cut "café" in two when it is decomposed.
_WORD = re.compile(r"[\w\u0300-\u036f]+")
_GAP = re.compile(r"[\s\u200b\-\u2010\u2011]+")
_HYPHENS = "-\u2010\u2011"
# Trie keys are words, so the key of a phrase's end cannot be one.
_END = ""

_IRREGULAR: Mapping[str, tuple[str, ...]] = {
    "person": ("people", "persons"),
    "man": ("men",),
    "child": ("children",),
    "mouse": ("mice",),
    "goose": ("geese",),
    "tooth": ("teeth",),
    "foot": ("feet",),
    "ox": ("oxen",),
    "knife": ("knives",),
    "wife": ("wives",),
    "life": ("lives",),
    "leaf": ("leaves",),
    "loaf": ("loaves",),
    "shelf": ("shelves",),
    "calf": ("calves",),
    "wolf": ("wolves",),
    "thief": ("thieves",),
    "scarf": ("scarves", "scarfs"),
    "hoof": ("hooves", "hoofs"),
    "sheep": ("sheep",),
    "fish": ("fish", "fishes"),
    "deer": ("deer",),
    "aircraft": ("aircraft",),
    "watercraft": ("watercraft",),
}
_ALREADY_PLURAL = frozenset(plural for plurals in _IRREGULAR.values() for plural in plurals) | {"cattle"}
# They end like an irregular noun and are none: "ottomans", not "ottomen".
_NOT_COMPOUNDS = frozenset({"human", "ottoman", "talisman", "caiman", "shaman", "mongoose"})


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


@dataclass(frozen=True)
class ObjectVocabulary:
    """Object categories with the words that count as them (the set C of the paper).

    Attributes:
        synonyms: Category name to every singular word or phrase that names it, the category's own name included.
        ignored: Phrases that name no object although they contain one's word ("train track" is no train).

    Raises:
        ValueError: There is no category, a phrase holds no word, or one phrase belongs to two categories (or to one
            and to ``ignored``), spelled out or as a plural.
    """

    synonyms: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...] = ()
    _trie: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.synonyms:
            raise ValueError("the object vocabulary has no category")
        object.__setattr__(self, "_trie", _build_trie(_phrase_owners(self.synonyms, self.ignored)))

    @classmethod
    def from_lines(cls, lines: Iterable[str], source: str = "vocabulary") -> ObjectVocabulary:
        """Read ``name, synonym, synonym`` lines.

        Blank lines and lines that start with ``#`` are skipped. A line that starts with ``!`` lists phrases to
        ignore. A category may be spread over several lines that repeat its name.

        Args:
            lines: The lines.
            source: What error messages call them.

        Raises:
            ValueError: As the class; also a line with a comma but no name before it.
        """
        synonyms: dict[str, tuple[str, ...]] = {}
        ignored: tuple[str, ...] = ()
        for number, line in enumerate(lines, start=1):
            text = line.strip().removeprefix("\ufeff")
            if not text or text.startswith(COMMENT_MARK):
                continue
            phrases = tuple(" ".join(part.split()) for part in text.removeprefix(IGNORE_MARK).split(","))
            if not phrases[0]:
                raise ValueError(f"{source}, line {number}: no name before the first comma: {line!r}")
            phrases = tuple(dict.fromkeys(filter(None, phrases)))
            if text.startswith(IGNORE_MARK):
                ignored += phrases
            else:
                synonyms[phrases[0]] = tuple(dict.fromkeys(synonyms.get(phrases[0], ()) + phrases))
        if not synonyms:
            raise ValueError(f"{source}: no category in it (every line is blank, a comment or an ignored phrase)")
        try:
            return cls(synonyms, ignored)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> ObjectVocabulary:
        """Read a UTF-8 text file in the format of `from_lines`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: As `from_lines`, naming the file.
        """
        return cls.from_lines(Path(path).read_text(encoding="utf-8").splitlines(), str(path))

    @classmethod
    def from_name(cls, name: str) -> ObjectVocabulary:
        """Load a built-in vocabulary.

        Args:
            name: ``"coco"`` (80 categories, the words CHAIR counts) or ``"coco+common"`` (and common objects that COCO
                does not annotate; the paper adds Detic's labels here).

        Raises:
            ValueError: There is no such vocabulary.
        """
        if name not in BUILT_IN:
            raise ValueError(f"no built-in vocabulary {name!r}; there are: {', '.join(map(repr, BUILT_IN))}")
        folder = files("fisao_pipeline.method").joinpath("vocabulary")
        texts = [folder.joinpath(file_name).read_text(encoding="utf-8") for file_name in BUILT_IN[name]]
        return cls.from_lines("\n".join(texts).splitlines(), name)

    @classmethod
    def load(cls, source: str | Path) -> ObjectVocabulary:
        """Load a built-in vocabulary by its name, or else a file by its path.

        Raises:
            ValueError: ``source`` is neither, or the file is malformed.
        """
        if str(source) in BUILT_IN:
            return cls.from_name(str(source))
        if not Path(source).is_file():
            raise ValueError(
                f"vocabulary {str(source)!r} is neither a file nor one of {', '.join(map(repr, BUILT_IN))}"
            )
        return cls.from_file(source)

    @property
    def categories(self) -> tuple[str, ...]:
        """Category names in the order of the vocabulary."""
        return tuple(self.synonyms)

    def canonical(self, word: str) -> str | None:
        """Category that a whole word or phrase names (any case, singular or plural); None when it names none."""
        mentions = find_mentions(word, self)
        return mentions[0].category if len(mentions) == 1 and mentions[0].text == word.strip() else None


def plurals(phrase: str) -> tuple[str, ...]:
    """Plural forms of an English singular, of its last word if it is a phrase; none if it already is a plural.

    Nouns in consonant + ``o`` get both spellings ("mangos", "mangoes"), since models write both.
    """
    match = re.search(r"\w+$", phrase)
    if match is None:
        return ()
    head, noun = phrase[: match.start()], match.group()
    return tuple(head + form for form in _noun_plurals(noun))


def _noun_plurals(noun: str) -> tuple[str, ...]:
    for ending, forms in _IRREGULAR.items():
        # Compounds follow ("snowman"), but short endings are accidents ("box" is no ox).
        if noun == ending or (len(ending) > 2 and noun.endswith(ending) and noun not in _NOT_COMPOUNDS):
            return tuple(noun.removesuffix(ending) + form for form in forms)
    if re.search(r"[^aeiou]y$", noun):
        return (noun[:-1] + "ies",)
    if re.search(r"[^aeiou]o$", noun):
        return (noun + "s", noun + "es")
    if re.search(r"(s[sh]|[xz]|ch|[ua]s|ens)$", noun):
        return (noun + "es",)
    # "scissors", "skis": any other noun in -s is a plural already.
    return () if noun.endswith("s") or noun in _ALREADY_PLURAL else (noun + "s",)


def _key(word: str) -> str:
    """Form under which words are compared: caseless, accents composed, full-width letters as plain ones."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _phrase_key(phrase: str) -> tuple[str, ...]:
    words = tuple(_key(word) for word in _WORD.findall(phrase))
    if not words:
        raise ValueError(f"{phrase!r} holds no word")
    return words


def _phrase_owners(
    synonyms: Mapping[str, tuple[str, ...]], ignored: tuple[str, ...]
) -> dict[tuple[str, ...], str | None]:
    """Map each phrase, plurals included, to its category (None: ignored). A spelled-out word beats a made plural."""
    entries: list[tuple[str | None, tuple[str, ...]]] = [*synonyms.items(), (None, ignored)]
    owners: dict[tuple[str, ...], str | None] = {}
    for category, phrases in entries:
        for phrase in phrases:
            _claim(owners, _phrase_key(phrase), category, phrase)
    spelled_out = set(owners)
    for category, phrases in entries:
        for phrase in phrases:
            for plural in plurals(phrase.lower()):
                if _phrase_key(plural) not in spelled_out:
                    _claim(owners, _phrase_key(plural), category, plural)
    return owners


def _claim(owners: dict[tuple[str, ...], str | None], key: tuple[str, ...], category: str | None, phrase: str) -> None:
    if key in owners and owners[key] != category:
        first, second = (
            "the ignored phrases" if owner is None else f"category {owner!r}" for owner in (owners[key], category)
        )
        raise ValueError(f"{phrase!r} belongs both to {first} and to {second}")
    owners[key] = category


def _build_trie(owners: Mapping[tuple[str, ...], str | None]) -> dict[str, Any]:
    trie: dict[str, Any] = {}
    for words, category in owners.items():
        node = trie
        for word in words:
            node = node.setdefault(word, {})
        node[_END] = category
    return trie


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
    spans = [match.span() for match in _WORD.finditer(text)]
    words = [_key(text[start:end]) for start, end in spans]
    mentions: list[Mention] = []
    position = 0
    while position < len(words):
        if words[position] not in vocabulary._trie:
            position += 1
            continue
        length, category = _longest_name(text, spans, words, position, vocabulary._trie)
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
        if _END in node and not _hyphenated(text, spans, last):
            best = (last - position + 1, node[_END])
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
