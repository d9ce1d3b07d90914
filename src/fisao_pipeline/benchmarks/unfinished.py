"""Captions that the longest answer cut off, and what is left of them without their unfinished sentence."""

from __future__ import annotations

import re

# What ends a sentence, with the quotes and brackets after it; "5.5" and "a.m" do not, for no blank follows the dot.
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)")


def is_unfinished(text: str, finish_reason: str | None = None) -> bool:
    """Whether a caption was cut off within a sentence.

    Args:
        text: The caption.
        finish_reason: `length` where the longest answer cut it off, `stop` where the model ended it; None where that is
            not known: then every caption that does not end with a sentence counts as cut off.
    """
    if finish_reason is not None and finish_reason != "length":
        return False
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return bool(text.strip()) and (not ends or bool(text[ends[-1] :].strip()))


def finished_part(text: str, finish_reason: str | None = None) -> str:
    """The caption up to the end of its last whole sentence; nothing where that is its first. See `is_unfinished`."""
    if not is_unfinished(text, finish_reason):
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""
