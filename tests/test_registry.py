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


GIVEN = {"raw", "pretrained"}
LAYERS = ["intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting"]


@pytest.mark.parametrize("env", ["base", "smoke"])
def test_kedro_viz_orders_the_layers(pipelines, env):
    """It shows none of them if one comes both before and after another, and it counts a folded stage as one node."""
    from pathlib import Path

    from kedro.config import OmegaConfigLoader
    from kedro.io import DataCatalog
    from kedro_viz.data_access import DataAccessManager
    from kedro_viz.server import populate_data

    from fisao_pipeline.settings import CONFIG_LOADER_ARGS

    conf = Path(__file__).parents[1] / "conf"
    catalog = OmegaConfigLoader(str(conf), env=env, **{**CONFIG_LOADER_ARGS, "default_run_env": env})["catalog"]
    assert all(entry["metadata"]["kedro-viz"]["layer"] in {*GIVEN, *LAYERS} for entry in catalog.values())
    manager = DataAccessManager()
    populate_data(manager, DataCatalog.from_config(catalog), pipelines, {})
    for name in pipelines:
        manager.create_modular_pipelines_tree_for_registered_pipeline(name)
        layers = manager.get_sorted_layers_for_registered_pipeline(name)
        assert set(layers) == {*GIVEN, *LAYERS}, name
    first, second, *others = manager.get_sorted_layers_for_registered_pipeline("__default__")
    assert {first, second} == GIVEN and others == LAYERS


def test_a_stage_is_a_box_whose_nodes_keep_their_names(pipelines):
    for stage in STAGES:
        nodes = pipelines[stage].nodes
        assert {node.namespace for node in nodes} == {stage}
        assert not any("." in node.name for node in nodes)
        whole = pipelines["__default__"]
        assert names(whole.only_nodes_with_namespaces([stage])) == names(pipelines[stage])
        # What Kedro makes copies for: tags, and pipelines with tags.
        tagged = [*(node.tag("more") for node in nodes), *pipelines[stage].tag("more").nodes]
        assert {(node.name, node.namespace) for node in tagged} == {(node.name, stage) for node in nodes}


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
