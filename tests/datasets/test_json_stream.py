import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError

from fisao_pipeline.datasets import json_stream
from fisao_pipeline.datasets.json_stream import JsonObject, JsonRows, open_json, open_json_lines

numbers = st.integers() | st.floats(allow_nan=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=()), max_size=30)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.json"


@settings(max_examples=40, deadline=None)
@given(value=values, chunk=st.integers(1, 40), indent=st.none() | st.integers(0, 2), escape=st.booleans())
def test_whatever_json_reads_is_read_the_same_however_the_file_is_cut(tmp_path_factory, value, chunk, indent, escape):
    text = json.dumps(value, indent=indent, ensure_ascii=escape)
    try:
        content = text.encode()
    except UnicodeEncodeError:  # Lone surrogates are JSON as escapes only.
        content = json.dumps(value, indent=indent).encode()
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_BYTES", chunk)
        read = open_json(path)
        assert read == json.loads(content)
        assert isinstance(read, JsonRows) == isinstance(value, list)
        assert isinstance(read, JsonObject) == isinstance(value, dict)


@settings(max_examples=40, deadline=None)
@given(text=st.text('{}[]",:\\ \n1e-tru"x', max_size=25), chunk=st.integers(1, 30))
def test_what_json_refuses_is_refused_at_the_same_place_of_a_file(tmp_path_factory, text, chunk):
    path = tmp_path_factory.getbasetemp() / "bad.json"
    path.write_text(text)
    try:
        json.loads(text)
    except json.JSONDecodeError:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(DatasetError, match=r"line \d+, column \d+"):
            patch.setattr(json_stream, "_CHUNK_BYTES", chunk)
            open_json(path)
    else:
        assert open_json(path) == json.loads(text)


def test_rows_are_read_as_often_as_they_are_asked_for(path):
    path.write_text('{"images": [1, {"é": [2]}], "info": {"x": [3]}, "images2": []}')
    content = open_json(path)
    assert [list(content["images"]), list(content["images"])] == [[1, {"é": [2]}]] * 2
    assert len(content["images"]) == 2 and content["info"] == {"x": [3]} and list(content["images2"]) == []
    assert 1 in content["images"] and 2 not in content["images"]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"é":\n [1,\n  2 3]}', "line 3, column 5"),
        ('{"a": [1, 2}', "line 1, column 12"),
        ('{"a": 1} x', "line 1, column 10"),
        ("[1, 2", "line 1, column 6"),
        ("{x: 1}", "line 1, column 2"),
    ],
)
def test_a_fault_is_located_in_lines_and_columns(path, monkeypatch, chunk, text, where):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", chunk)
    path.write_text(text, encoding="utf-8-sig")
    with pytest.raises(DatasetError, match=rf"a\.json is not valid JSON at {where}"):
        open_json(path)


def test_a_long_file_takes_the_memory_of_its_parts(path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 1 << 16)
    with path.open("w") as stream:
        stream.write('{"annotations": [')
        stream.write(", ".join(json.dumps({"id": number, "segmentation": [0.5] * 100}) for number in range(6_000)))
        stream.write("]}")
    assert path.stat().st_size > 3_000_000
    tracemalloc.start()
    try:
        assert sum(row["id"] for row in open_json(path)["annotations"]) == 6_000 * 5_999 // 2
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_json_lines_are_rows_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"y": "\u2028"}\n\n  \n{"y": 2}')
    rows = open_json_lines(path)
    assert rows == [{"y": "\u2028"}, {"y": 2}] and len(rows) == 2
