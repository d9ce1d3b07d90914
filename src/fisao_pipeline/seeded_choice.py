"""Which few of many: by a seeded hash of their ids, so that neither file order nor added rows decide."""

from __future__ import annotations

import hashlib

import pandas as pd


def seeded_hash(name: str, seed: int) -> int:
    """A number in [0, 2⁶⁴) that looks random and depends on nothing but the name and the seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "big")


def seeded_choice(table: pd.DataFrame, key: str, count: int, seed: int) -> pd.DataFrame:
    """The rows of ``count`` values of a column, chosen and ordered by their seeded hash.

    The order of the rows does not matter, so a sorted file gives no biased choice; a value that is added displaces at
    most one that was chosen.

    Args:
        table: Rows; those that share a value of ``key`` stay together, in their order.
        key: Column of string ids.
        count: Distinct ids to choose; all of them where there are fewer.
        seed: Another seed chooses others.
    """
    order = sorted(table[key].unique(), key=lambda name: seeded_hash(name, seed))
    place = {name: number for number, name in enumerate(order[:count])}
    chosen = table[table[key].isin(place)]
    return chosen.iloc[chosen[key].map(place).argsort(kind="stable")].reset_index(drop=True)
