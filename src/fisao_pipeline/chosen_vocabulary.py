"""The vocabulary that a setting names; its mistakes are told by the name of that setting."""

from __future__ import annotations

import logging
from pathlib import Path

from fisao_pipeline.method.vocabulary import BUILT_IN, COMMENT_MARK, IGNORE_MARK, WORD, ObjectVocabulary, word_key

logger = logging.getLogger(__name__)

_EXAMPLES = 3


def load_vocabulary(source: str, setting: str) -> ObjectVocabulary:
    """Load a built-in vocabulary or a file, and say of a file what was read and what stands in it twice.

    Args:
        source: Name or path.
        setting: Full name of the parameter that holds it, for messages: `reward_annotation.vocabulary`.

    Raises:
        ValueError: If there is no such vocabulary or it is malformed; the message begins with the setting.
    """
    try:
        vocabulary = ObjectVocabulary.load(source)
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting}: {source} is no UTF-8 text ({error}); save it as UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from error
    if source not in BUILT_IN:
        _describe(Path(source), vocabulary, setting)
    return vocabulary


def _describe(file: Path, vocabulary: ObjectVocabulary, setting: str) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    blank = sum(not line.strip() for line in lines)
    logger.info(
        "%s: %s names %d categories by %d words; %d blank lines were skipped.",
        setting,
        file,
        len(vocabulary.categories),
        sum(map(len, vocabulary.synonyms.values())),
        blank,
    )
    repeats = repeated_words(lines)
    if repeats:
        listed = ", ".join(f"{word!r} in line {number} and line {first}" for word, number, first in repeats[:_EXAMPLES])
        more = f" and {len(repeats) - _EXAMPLES} more" if len(repeats) > _EXAMPLES else ""
        logger.warning("%s: %s holds words twice (%s%s): each counts once.", setting, file, listed, more)


def repeated_words(lines: list[str]) -> list[tuple[str, int, int]]:
    """Words that a vocabulary file holds twice: each with the number of its line and of the line that had it before.

    A category's name that begins a further line of synonyms is no repeat: that is how a category is spread out.
    """
    first: dict[tuple[bool, tuple[str, ...]], int] = {}
    repeats = []
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if not text or text.startswith(COMMENT_MARK):
            continue
        ignored = text.startswith(IGNORE_MARK)
        phrases = [" ".join(part.split()) for part in text.removeprefix(IGNORE_MARK).split(",") if part.strip()]
        goes_on = not ignored and len(phrases) > 1
        for place, phrase in enumerate(phrases):
            key = ignored, tuple(map(word_key, WORD.findall(phrase)))
            if key in first and not (goes_on and place == 0):
                repeats.append((phrase, number, first[key]))
            first.setdefault(key, number)
    return repeats
