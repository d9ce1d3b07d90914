"""Which words name which object category: the set C of the paper, read from plain text files.

The text files beside this module are the built-in vocabularies.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from fisao_pipeline.method.vocabulary.plurals import plurals

__all__ = ["BUILT_IN", "WORD", "ObjectVocabulary", "file_digest", "word_key"]

BUILT_IN = {"coco": ("coco_synonyms.txt",), "coco+common": ("coco_synonyms.txt", "common_objects.txt")}
IGNORE_MARK = "!"
COMMENT_MARK = "#"

# A combining accent belongs to the letter before it; \w alone would cut "café" in two when it is decomposed.
WORD = re.compile(r"[\w\u0300-\u036f]+")
# Keys of the trie are words, so the key that marks the end of a phrase cannot be one.
PHRASE_END = ""


@dataclass(frozen=True)
class ObjectVocabulary:
    """Object categories with the words that count as them (the set C of the paper).

    Attributes:
        synonyms: Category name to every singular word or phrase that names it, the category's own name included.
        ignored: Phrases that name no object although they contain one's word ("train track" is no train).
        trie: Words of each phrase to its category, as nested dictionaries (made from the other two).

    Raises:
        ValueError: There is no category, a phrase holds no word, or one phrase belongs to two categories (or to one
            and to ``ignored``), spelled out or as a plural.
    """

    synonyms: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...] = ()
    trie: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.synonyms:
            raise ValueError("the object vocabulary has no category")
        object.__setattr__(self, "trie", _build_trie(_phrase_owners(self.synonyms, self.ignored)))

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
        folder = files("fisao_pipeline.method.vocabulary")
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
        node = self.trie
        for part in WORD.findall(word):
            node = node.get(word_key(part), {})
        return node.get(PHRASE_END)


def file_digest(source: str | Path) -> str | None:
    """Digest of a vocabulary file's content; None for a built-in vocabulary, which belongs to the version."""
    if str(source) in BUILT_IN or not Path(source).is_file():
        return None
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def word_key(word: str) -> str:
    """Form under which words are compared: caseless, accents composed, full-width letters as plain ones."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _phrase_key(phrase: str) -> tuple[str, ...]:
    words = tuple(word_key(word) for word in WORD.findall(phrase))
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
        node[PHRASE_END] = category
    return trie
