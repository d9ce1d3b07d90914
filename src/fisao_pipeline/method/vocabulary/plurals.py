"""English plurals, as far as names of objects need them."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
