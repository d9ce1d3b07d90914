"""A choice of ids that depends on the ids and the seed alone."""

import hashlib

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from fisao_pipeline.seeded_choice import seeded_choice, seeded_hash


def rows(names) -> pd.DataFrame:
    return pd.DataFrame({"image_id": names, "number": range(len(names))})


def chosen(names, count, seed=0) -> list[str]:
    return seeded_choice(rows(names), "image_id", count, seed)["image_id"].drop_duplicates().tolist()


NAMES = [f"i{number:03}" for number in range(200)]


def test_the_hash_is_the_one_that_deals_the_splits():
    """Another hash would deal every user's images anew."""
    assert seeded_hash("abc", 7) == int(hashlib.blake2b(b"7:abc", digest_size=8).hexdigest(), 16)


@settings(deadline=None)
@given(names=st.lists(st.text(max_size=4), unique=True, max_size=30), count=st.integers(0, 40), data=st.data())
def test_the_order_of_the_rows_does_not_matter(names, count, data):
    shuffled = data.draw(st.permutations(names))
    assert chosen(shuffled, count) == chosen(names, count)
    assert len(chosen(names, count)) == min(count, len(names))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 50), extra=st.integers(1, 20))
def test_added_rows_displace_no_more_than_they_are(seed, count, extra):
    before = set(chosen(NAMES[:100], count, seed))
    after = chosen([*[f"new{n}" for n in range(extra)], *NAMES[:100]], count, seed)
    assert len(before - set(after)) == sum(name.startswith("new") for name in after)
    assert [name for name in after if name in before] == [n for n in chosen(NAMES[:100], count, seed) if n in after]


def test_a_sorted_file_is_not_cut_at_its_head():
    """Twenty of two hundred come from all over the file, and other ones for another seed."""
    places = [NAMES.index(name) for name in chosen(NAMES, 20)]
    assert min(places) < 40 and max(places) > 160
    assert places != sorted(places)
    assert set(chosen(NAMES, 20, seed=1)) != set(chosen(NAMES, 20, seed=0))


def test_rows_of_one_id_stay_together_in_their_order():
    table = seeded_choice(rows(["a", "b", "a", "c", "b", "a"]), "image_id", 2, seed=0)
    assert table.index.tolist() == list(range(len(table)))
    kept = table["image_id"].drop_duplicates().tolist()
    assert len(kept) == 2
    assert table["image_id"].tolist() == sorted(table["image_id"], key=kept.index)
    assert table.loc[table["image_id"] == kept[0], "number"].is_monotonic_increasing
    assert len(table) == sum(["a", "b", "a", "c", "b", "a"].count(name) for name in kept)
