"""Previews as Kedro-Viz asks for them: of what is there, and of what is missing, broken, old or hostile."""

import base64
import inspect
import io
import json
import logging

import orjson
import pandas as pd
import plotly.graph_objects as go
import pytest
from kedro.io import AbstractDataset, MemoryDataset, Version
from kedro_viz.models.flowchart.node_metadata import DataNodeMetadata
from kedro_viz.models.flowchart.nodes import GraphNode
from PIL import Image
from tests.commands.test_lineage import COMMIT, DAY, RUN, put

from fisao_pipeline.artifacts.provenance import seal
from fisao_pipeline.datasets import AtomicDataset, KeyedFolderDataset
from fisao_pipeline.datasets.image_folder import ImageFolderDataset
from fisao_pipeline.viz.context import PreviewedCatalog
from fisao_pipeline.viz.site import measured

KINDS = {
    "responses": ("pandas.ParquetDataset", "responses.parquet"),
    "adapter": ("json.JSONDataset", "adapter.json"),
    "table": ("text.TextDataset", "table.md"),
    "report": ("text.TextDataset", "report.html"),
    "figure": ("plotly.JSONDataset", "figure.json"),
    "image": ("matplotlib.MatplotlibDataset", "image.png"),
    "training_history": ("pandas.ParquetDataset", "training_history.parquet"),
}
TOLD = (f"version: {DAY}", f"MLflow run: {RUN}", f"commit: {COMMIT[:10]}")


@pytest.fixture
def catalog(tmp_path):
    made: dict[str, AbstractDataset] = {
        name: AtomicDataset(filepath=str(tmp_path / file), dataset=kind, version=Version(None, None))
        for name, (kind, file) in KINDS.items()
    }
    made["shards"] = KeyedFolderDataset(filepath=str(tmp_path / "shards"), dataset="json.JSONDataset", suffix=".json")
    made["pictures"] = ImageFolderDataset(filepath=str(tmp_path / "pictures"))
    made["params:block"] = MemoryDataset({"a": 1})
    return PreviewedCatalog(made)


def shown(catalog, name):
    """What Kedro-Viz makes of a dataset, which has to be fit for its encoder."""
    node = GraphNode.create_data_node(
        dataset_id=name, dataset_name=name, layer=None, tags=set(), dataset=catalog.get(name), modular_pipelines=set()
    )
    metadata = DataNodeMetadata(data_node=node)
    orjson.dumps({"preview": metadata.preview})
    return metadata


def text(catalog, name):
    metadata = shown(catalog, name)
    assert metadata.preview_type == "TextPreview"
    return metadata.preview.splitlines()


def subtitle(catalog, name):
    metadata = shown(catalog, name)
    assert metadata.preview_type == "PlotlyPreview"
    return metadata.preview["layout"]["title"]["subtitle"]["text"].split("<br>")


def picture(catalog, name):
    metadata = shown(catalog, name)
    assert metadata.preview_type == "ImagePreview"
    return Image.open(io.BytesIO(base64.b64decode(metadata.preview)))


def test_a_table_shows_its_origin_its_beginning_and_the_same_tree_as_the_command(catalog):
    put(catalog, "responses", data=pd.DataFrame({"text": ["a cat", "a\tdog\n"], "reward": [0.5, None]}))
    put(catalog, "adapter", {"responses": DAY})
    lines = text(catalog, "responses")
    assert [line for line in lines if line.startswith(TOLD)] == list(TOLD)
    assert "made by: make_responses, 2026-01-01T00:00:00+00:00" in lines
    assert any(line.startswith("size: 2 rows, ") for line in lines)
    assert {"text: a cat │ a dog", "reward: 0.5 │ null"} <= set(lines)
    from fisao_pipeline.artifacts.tree import lines_of, tree_of

    tree = list(lines_of(tree_of(catalog, "adapter", DAY)))
    assert text(catalog, "adapter")[-len(tree) :] == tree
    assert any("responses@" in line for line in tree)
    assert f"how it came about (python -m fisao_pipeline lineage adapter@{DAY}):" in text(catalog, "adapter")


def test_rows_and_sizes_are_those_of_the_artifact_and_not_of_its_folder(catalog):
    put(catalog, "responses", data=pd.DataFrame({"text": ["a cat", "a dog"]}))
    size = catalog.get("responses").version_path(DAY).stat().st_size
    assert measured(catalog)["responses"].stats == {"rows": 2, "file_size": size}
    assert not measured(catalog)["adapter"].stats


def test_kedro_viz_sees_a_new_version_at_once(catalog):
    put(catalog, "responses", data=pd.DataFrame({"text": ["old"]}))
    assert "text: old" in text(catalog, "responses")
    newer = "2026-02-01T00.00.00.000Z"
    place = catalog.get("responses").version_path(newer)
    place.parent.mkdir()
    pd.DataFrame({"text": ["new"]}).to_parquet(place)
    lines = text(catalog, "responses")
    assert lines[0] == f"version: {newer}, the last of 2" and "text: new" in lines
    assert "nothing beside it says how it was made" in lines


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_made_yet_is_said_to_be_so_without_a_warning(catalog, name, caplog):
    with caplog.at_level(logging.WARNING):
        metadata = shown(catalog, name)
    assert caplog.records == []
    if metadata.preview_type == "ImagePreview":
        assert picture(catalog, name).height < 100
    else:
        assert json.dumps(metadata.preview).count("not made yet") == 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 600, b'{"a": 1'])
def test_what_is_corrupt_still_has_an_origin(catalog, name, content, caplog):
    put(catalog, name)
    catalog.get(name).version_path(DAY).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        metadata = shown(catalog, name)
    assert caplog.records == []
    assert metadata.preview is not None
    if metadata.preview_type != "ImagePreview":
        assert all(line in json.dumps(metadata.preview) for line in TOLD)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("no JSON", "provenance.json cannot be read (JSONDecodeError)"),
        ("[]", "provenance.json is no record of an artifact"),
        (json.dumps({"inputs": {}, "seal": "sha256:0"}), "provenance.json was edited"),
        (json.dumps({"inputs": {}}), f"version: {DAY}"),
        (json.dumps({"inputs": {"gone": DAY}, "node": "n", "git_commit": COMMIT}), f"commit: {COMMIT[:10]}"),
        (json.dumps({"inputs": {"adapter": [1]}, "node": 1}), f"version: {DAY}"),
    ],
)
def test_old_broken_and_edited_records_break_nothing(catalog, record, said, caplog):
    put(catalog, "responses", data=pd.DataFrame({"text": ["a cat"]}))
    catalog.get("responses").provenance_path(DAY).write_text(record)
    with caplog.at_level(logging.WARNING):
        lines = text(catalog, "responses")
    assert said in lines or any(said in line for line in lines)
    assert "text: a cat" in lines and caplog.records == []
    assert measured(catalog)["responses"].stats.get("rows") in (None, 1)


def test_texts_of_models_and_people_stay_texts(catalog):
    """Escapes for a terminal, marks that turn the direction of writing, and lines without an end."""
    evil = "\x1b[31m\u202ered<script>alert(1)</script>" + "x" * 10**6
    put(catalog, "responses", data=pd.DataFrame({"text": [evil]}))
    lines = text(catalog, "responses")
    assert not {"\x1b", "\u202e"} & set("\n".join(lines))
    assert sum(map(len, lines)) < 2000


def test_a_page_is_to_be_opened(catalog):
    catalog.save("report", "<!doctype html>")
    (page,) = [line for line in text(catalog, "report") if line.startswith("A page")]
    assert page.endswith("/report.html")


def test_a_figure_has_its_origin_above_it(catalog):
    figure = go.Figure(go.Bar(x=["a"], y=[1])).update_layout(title={"text": "T", "subtitle": {"text": "a note"}})
    put(catalog, "figure")
    catalog.get("figure").version_path(DAY).write_text(figure.to_json())
    lines = subtitle(catalog, "figure")
    assert set(TOLD) <= set(lines) and lines[-1] == "a note"
    drawn = shown(catalog, "figure").preview
    assert drawn["data"][0]["type"] == "bar"
    # Kedro-Viz sets the margins: the lines need a part of the plot's own height.
    assert drawn["layout"]["yaxis"]["domain"][1] < 0.7


def test_a_training_shows_its_curves(catalog):
    history = {"round": [-1, 0, 1], "kept": [False, False, True], "kl": [None, 0.1, 0.2], "token_reward": [None, 1, 2]}
    put(catalog, "training_history", data=pd.DataFrame(history))
    assert set(TOLD) <= set(subtitle(catalog, "training_history"))
    drawn = shown(catalog, "training_history").preview
    assert [trace["visible"] for trace in drawn["data"]] == [True, False]
    (menu,) = drawn["layout"]["updatemenus"]
    assert [button["label"] for button in menu["buttons"]] == ["Reward per answer", "Distance from the base model"]
    assert menu["buttons"][1]["args"][0] == {"visible": [False, True]}
    assert drawn["data"][1]["y"] == [0.1, 0.2]
    assert drawn["layout"]["shapes"][0]["x0"] == 1


def test_pictures_are_shown(catalog, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    before = picture(catalog, "pictures")
    for number in range(12):
        Image.new("RGB", (64, 64), (250, 0, number)).save(folder / f"{number}.png")
    (folder / "0.png").write_bytes(b"no picture")
    sheet = picture(catalog, "pictures").convert("RGB")
    red = sum(count for count, colour in sheet.getcolors(10**6) if colour[0] > 200 and colour[1] < 60)
    assert red > 9 * 60 * 60, "ten are shown, one of which cannot be read"
    assert sheet.height > before.height


def test_an_image_is_shown_below_its_origin(catalog):
    put(catalog, "image")
    Image.new("RGB", (64, 64), "red").save(catalog.get("image").version_path(DAY), "PNG")
    assert picture(catalog, "image").height > 64 + len(TOLD) * 15


def test_keys_are_listed(catalog):
    for number in range(30):
        catalog.load("shards").put(f"{number:02}", number)
    lines = text(catalog, "shards")
    assert "30 values by key" in lines and "00" in lines and "… and 10 more" in lines


def test_parameters_have_none(catalog):
    assert not hasattr(catalog.get("params:block"), "preview")
    assert catalog.get("nothing") is None


def test_kinds_are_annotated_as_kedro_viz_reads_them(catalog):
    """Quoted, they would be names that it knows nothing about."""
    for name in KINDS:
        assert not isinstance(inspect.signature(catalog.get(name).preview).return_annotation, str)


def test_a_record_of_this_test_is_sealed(catalog):
    """So that what is shown of it is what is shown of a real one."""
    put(catalog, "adapter")
    record = json.loads(catalog.get("adapter").provenance_path(DAY).read_text())
    assert record["seal"] == seal(record)
