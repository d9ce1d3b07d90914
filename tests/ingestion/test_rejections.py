import pytest

from fisao_pipeline.ingestion.rejections import Rejection, as_id, as_text, collect_rejections, rejections_table


def test_one_warning_counts_reasons_by_kind(caplog):
    broken = [Rejection("image", f"{number}.jpg", f"truncated: {number} bytes") for number in range(5)]
    images = rejections_table([*broken, Rejection("image", "x", "empty file: no bytes")])
    prompts = rejections_table([Rejection("prompt", "p", "empty prompt: row 1")])
    table = collect_rejections(images, rejections_table([]), prompts, listed_in="some_table")
    assert len(table) == 7 and list(table.columns) == ["kind", "name", "reason"]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "6 of kind image: 5 x truncated (0.jpg, 1.jpg, 2.jpg, …); 1 x empty file (x)." in record.getMessage()
    assert "1 of kind prompt: 1 x empty prompt (p)." in record.getMessage()
    assert "`some_table`" in record.getMessage()


def test_nothing_refused_is_an_empty_table_and_no_warning(caplog, tmp_path):
    table = collect_rejections(rejections_table([]), rejections_table([]), listed_in="some_table")
    assert table.empty and list(table.columns) == ["kind", "name", "reason"] and not caplog.records
    table.to_parquet(tmp_path / "empty.parquet")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(7, "7"), (7.0, "7"), (" 7 ", "7"), (7.5, None), (True, None), (None, None), ([], None), (float("nan"), None)],
)
def test_ids_are_text(value, expected):
    assert as_id(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(" a b ", "a b"), (" ", None), ("\udce9", None), (3, None)])
def test_text_is_stripped_and_storable(value, expected):
    assert as_text(value) == expected
