"""Parameters as dotted keys, for records and logs: what could be a secret is not in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

MASK = "***"
# Not what ends with `tokens`, of which this project has many.
_SECRET_NAME = re.compile(
    r"(^|[._-])(password|passwd|passphrase|secret|credentials?|authorization|(api|access|secret|private)[_-]?key"
    r"|((auth|access|hf)[_-]?)?token)$"
)
# Of a tokenizer or a processor: words that change results, and nobody's secret.
_WORD_NAME = re.compile(
    r"(^|[._-])(bos|eos|pad|unk|sep|cls|mask|image|video|audio|vision|text|boi|eoi|patch|row|col|newline|start|end)_token$"
)
_IN_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def flatten_parameters(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a node's parameters as dotted keys with plain values, `ppo.clip_range` for instance.

    Args:
        inputs: A node's inputs by name; only those named `params:…` and `parameters` are looked at. Values are
            numbers, texts, lists, dicts or Pydantic models, nested as they come.

    Returns:
        One entry per leaf; a list is one leaf. Values under names such as `password` and users in URLs are masked.
    """
    flat: dict[str, Any] = {}
    for name, value in inputs.items():
        if name == "parameters" or name.startswith("params:"):
            flat.update(_flatten(name.removeprefix("params:") if name != "parameters" else "", value))
    return flat


def nest_parameters(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round: dotted keys as nested dicts; what was masked, and so is not known, is left out."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if MASK not in json.dumps(value):
            *above, name = key.split(".")
            place = nested
            for part in above:
                place = place.setdefault(part, {})
            place[name] = value
    return nested


def _flatten(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if not isinstance(value, Mapping) or _is_secret(key):
        return [(key, _masked_under(key, value))]
    return [pair for name, item in value.items() for pair in _flatten(f"{key}.{name}" if key else str(name), item)]


def masked(value: Any) -> Any:
    """A value without what stands before the `@` of a URL and what is under names such as `token`, however nested."""
    if isinstance(value, str):
        return _IN_URL.sub(MASK, value)
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _masked_under(str(name), item) for name, item in value.items()}
    return value


def _masked_under(name: str, value: Any) -> Any:
    return MASK if _is_secret(name) and value is not None else masked(value)


def _is_secret(name: str) -> bool:
    lowered = name.lower()
    return _SECRET_NAME.search(lowered) is not None and _WORD_NAME.search(lowered) is None
