"""The pipelines by name, and that listing them costs no heavy import."""

import subprocess
import sys

import pytest

from fisao_pipeline.pipeline_registry import register_pipelines

STAGES = ("image_ingestion", "response_sampling", "reward_annotation", "policy_training", "benchmark_evaluation")

SCORING = ("score_predictions", "clip_score", "pope_questions", "lmms_eval")


@pytest.fixture(scope="module")
def pipelines():
    return register_pipelines()


def test_names(pipelines):
    assert {
        *STAGES,
        "__default__",
        "train",
        "pocket_world",
        "pocket_instructblip",
        "seed_study",
        "ablation",
        "theorem",
        *SCORING,
    } <= set(pipelines)


def names(*parts):
    return {node.name for part in parts for node in part.nodes}


def test_train_is_the_first_four_stages_and_the_default_all_five(pipelines):
    assert names(pipelines["train"]) == names(*(pipelines[stage] for stage in STAGES[:4]))
    assert names(pipelines["__default__"]) == names(*(pipelines[stage] for stage in STAGES))


def test_only_the_evaluation_makes_predictions(pipelines):
    assert "predictions" in pipelines["benchmark_evaluation"].all_outputs()
    assert "predictions" not in pipelines["train"].all_outputs() | pipelines["train"].inputs()


def test_every_node_is_tagged_with_its_stage(pipelines):
    for stage in STAGES:
        assert all(stage in node.tags for node in pipelines[stage].nodes)


def test_every_stage_starts_from_artifacts_that_are_in_the_catalog(pipelines):
    """So that each can be run again alone."""
    from pathlib import Path

    from kedro.config import OmegaConfigLoader

    from fisao_pipeline.settings import CONFIG_LOADER_ARGS

    conf = Path(__file__).parents[1] / "conf"
    for env in ("base", "smoke", "pocket_instructblip"):
        loader = OmegaConfigLoader(str(conf), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})
        entries = set(loader["catalog"])
        for name in (*STAGES, "pocket_world", "pocket_instructblip", "seed_study", "ablation", "theorem", *SCORING):
            needed = {i for i in pipelines[name].inputs() if not i.startswith("params:") and i != "parameters"}
            assert needed <= entries, f"{env}, {name}"
            assert pipelines[name].outputs() <= entries, f"{env}, {name}"


@pytest.mark.parametrize("env", ["base", "smoke"])
def test_the_layers_have_an_order(pipelines, env):
    """Kedro-Viz shows none of them if one layer comes both before and after another."""
    from graphlib import TopologicalSorter
    from pathlib import Path

    from kedro.config import OmegaConfigLoader

    from fisao_pipeline.settings import CONFIG_LOADER_ARGS

    conf = Path(__file__).parents[1] / "conf"
    catalog = OmegaConfigLoader(str(conf), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})["catalog"]
    layers = {name: entry["metadata"]["kedro-viz"]["layer"] for name, entry in catalog.items()}
    for name in ("__default__", "pocket_world", "pocket_instructblip", "ablation", "seed_study", "theorem", *SCORING):
        before: dict[str, set[str]] = {}
        # Of a dataset without a layer, such as one in memory, the layers that it comes from.
        layers_of = {name: {layer} for name, layer in layers.items()}
        for node in pipelines[name].nodes:
            read = {layer for i in node.inputs for layer in layers_of.get(i, ())}
            for output in node.outputs:
                if output in layers:
                    before.setdefault(layers[output], set()).update(read - {layers[output]})
                layers_of.setdefault(output, read)
        assert list(TopologicalSorter(before).static_order()), name


def test_smoke_shares_no_file_with_base():
    from pathlib import Path

    from kedro.config import OmegaConfigLoader

    from fisao_pipeline.settings import CONFIG_LOADER_ARGS

    conf = Path(__file__).parents[1] / "conf"
    catalogs = {
        env: OmegaConfigLoader(str(conf), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})["catalog"]
        for env in ("base", "smoke")
    }
    assert set(catalogs["smoke"]) == set(catalogs["base"])
    for name, entry in catalogs["smoke"].items():
        # The lineage is handed over by a hook and is no file.
        assert name == "lineage" or entry["filepath"].startswith("data/smoke/"), name
        assert entry["type"] == catalogs["base"][name]["type"], name
        assert entry.get("dataset") == catalogs["base"][name].get("dataset"), name
        assert entry.get("versioned") == catalogs["base"][name].get("versioned"), name


def test_importing_the_registry_loads_nothing_heavy():
    code = (
        "import sys; from fisao_pipeline.pipeline_registry import register_pipelines; register_pipelines(); "
        "print(sorted({'torch', 'transformers', 'mlflow', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
