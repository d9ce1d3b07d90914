"""Which characters of a response each of its tokens stands for, whichever tokens the policy has sampled."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNFINISHED = "\ufffd"
# Tokens that are decoded with each new one, at least; more where characters are unfinished.
_WINDOW = 8


def decode_with_offsets(tokenizer, token_ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Text of sampled tokens and each token's character span in it.

    Found from the lengths of growing prefixes, because the policy may sample a token sequence that its tokenizer would
    not have produced for the same text; special tokens get empty spans. A character that several byte tokens spell
    belongs to the last of them.
    """
    special = set(tokenizer.all_special_ids)
    text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    lengths = prefix_lengths(tokenizer, [token_id for token_id in token_ids if token_id not in special])
    spans: list[tuple[int, int]] = []
    end = 0
    for token_id in token_ids:
        start = end
        if token_id not in special:
            end = max(start, next(lengths))
        spans.append((start, min(end, len(text))))
    return text, spans


def prefix_lengths(tokenizer, token_ids: Sequence[int]) -> Iterator[int]:
    """For each token the characters of the text up to it, without replacement characters at the end.

    An unfinished character decodes to a replacement character: it is not there yet. In time that grows with the number
    of tokens: what is decoded with a token are the few before it, from a place on where the text so far is finished.
    What a decoder does at the beginning of a text (a blank that is stripped) it does to a token that is there twice,
    with the tokens and without, and a difference of lengths does not have it. A run of bytes is counted here, since one
    wrong byte at its end may undo it up to its beginning.
    """

    def decode(start: int, end: int) -> str:
        return tokenizer.decode(token_ids[start:end], clean_up_tokenization_spaces=False)

    bytes_of = _byte_values(tokenizer, token_ids)
    # The window begins at `first`; the text up to token `at` has `before` characters, of which the window gives `own`.
    first = at = before = own = 0
    finished: list[int] = []
    run: _ByteRun | None = None
    length = whole = 0
    for last, value in enumerate(bytes_of):
        if value is not None:
            run = run or _ByteRun(whole or None, length)
            run.add(value)
            if run.must_ask:
                run.learn(before + len(decode(first, last + 1)) - own)
            yield run.length
            continue
        run = None
        window = decode(first, last + 1)
        whole = before + len(window) - own
        shown = window.rstrip(_UNFINISHED)
        length = before + len(shown) - own
        yield length
        if len(shown) < len(window):
            continue
        finished.append(last + 1)
        if last + 1 - at >= _WINDOW:
            context = next((place for place in reversed(finished) if decode(place, last + 1)), None)
            if context is not None:
                first, at, before, own = context, last + 1, whole, len(decode(context, last + 1))
                finished = [last + 1]


class _ByteRun:
    """Tokens of single bytes in a row, which are text if all of them are and replacement characters if one is not.

    Attributes:
        length: Characters up to the last byte, without replacement characters at the end.
        must_ask: Whether only the decoder can tell: no character is before the run, and it may strip what comes first.
    """

    def __init__(self, before: int | None, shown: int):
        """Begin a run.

        Args:
            before: Characters before it; None where there are none.
            shown: The same without replacement characters at the end.
        """
        self.length = self._shown = shown
        self.must_ask = False
        self._before = before
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._characters = self._unfinished = 0
        self._wrong = False

    def add(self, value: int) -> None:
        """Go on with a byte."""
        self.length, self.must_ask = self._shown, False
        if self._wrong:
            return
        try:
            character = self._decoder.decode(bytes([value]))
        except UnicodeDecodeError:
            self._wrong = True
            return
        if character:
            self._characters += 1
            self._unfinished = self._unfinished + 1 if character == _UNFINISHED else 0
            self.must_ask = self._before is None
            self._count()

    def learn(self, decoded: int) -> None:
        """Take the decoder's count of characters up to here; none tells nothing: what there is was stripped."""
        if decoded:
            self._before = decoded - self._characters
            self._count()

    def _count(self) -> None:
        if self._before is not None and self._characters > self._unfinished:
            self.length = self._before + self._characters - self._unfinished


def _byte_values(tokenizer, token_ids: Sequence[int]) -> list[int | None]:
    """The byte that a token stands for in a tokenizer that falls back to bytes, None for all other tokens."""
    if b"ByteFallback" not in tokenizer.backend_tokenizer.decoder.__getstate__():
        return [None] * len(token_ids)
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    found = [_BYTE_TOKEN.fullmatch(token or "") for token in tokens]
    return [int(match[1], 16) if match else None for match in found]
