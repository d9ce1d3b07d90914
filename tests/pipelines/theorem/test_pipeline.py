"""The pipeline through the catalog of `smoke`, saved and loaded again."""

from pathlib import Path

import plotly.graph_objects as go
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from fisao_pipeline.params.theorem import TheoremParams
from fisao_pipeline.pipelines.theorem import create_pipeline
from fisao_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loader = OmegaConfigLoader(str(CONF), env="smoke", **{**CONFIG_LOADER_ARGS, "default_run_env": "smoke"})
    entries = {name: entry for name, entry in loader["catalog"].items() if name.startswith("theorem_")}
    for entry in entries.values():
        entry["filepath"] = str(tmp_path / entry["filepath"])
    catalog = DataCatalog.from_config(entries)
    catalog["params:theorem"] = MemoryDataset(TheoremParams(**loader["parameters"]["theorem"]))
    return catalog


def test_makes_curve_summary_and_figure(catalog):
    SequentialRunner().run(create_pipeline(), catalog)
    curve, summary, figure = (catalog[f"theorem_{name}"].load() for name in ("curve", "summary", "figure"))
    assert list(curve) == ["feedback", "vision_weight", "expected_loss", "simulated_loss", "standard_error"]
    assert curve["feedback"].value_counts().to_dict() == {"informative": 5, "control": 5}
    assert summary["informative"]["change"] < 0 == summary["control"]["change"]
    assert isinstance(figure, go.Figure)


def test_it_runs_in_no_other_pipeline():
    from fisao_pipeline.pipeline_registry import register_pipelines

    outputs = create_pipeline().all_outputs()
    others = [pipeline for name, pipeline in register_pipelines().items() if name != "theorem"]
    assert all(not outputs & pipeline.all_outputs() for pipeline in others)
