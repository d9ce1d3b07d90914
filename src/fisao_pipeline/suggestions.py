"""What to do about a name that does not exist, or about files that are not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_POCKET_SCENES = "pocket_scenes"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of some names, nothing when none is close."""
    close = get_close_matches(name, list(names), n=1)
    return f"; did you mean '{close[0]}'?" if close and close[0] != name else ""


def how_to_bring(path: Path, setting: str) -> str:
    """How data that a user brings get to where the catalog looks for them; those of the pocket world are rendered.

    Args:
        path: Where they are looked for.
        setting: What names the path in an environment's catalog.
    """
    elsewhere = f"set {setting} in conf/<env>/catalog.yml"
    if _POCKET_SCENES in path.parts:
        return (
            "`kedro run --pipelines=pocket_world --tags=scenes` with the same --env renders the pocket world; for data "
            f"of your own, {elsewhere}."
        )
    return (
        f"Put your data there, or {elsewhere}; what the environments of published models need, and the commands that "
        "download it: docs/real_models.md."
    )
