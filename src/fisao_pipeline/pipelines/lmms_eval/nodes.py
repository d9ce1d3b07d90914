"""Nodes of `lmms_eval`."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from kedro.utils import find_kedro_project

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings
from fisao_pipeline.benchmarks.lmms_results import TaskResult, compare_tasks, format_tasks, read_results
from fisao_pipeline.datasets.adapter_folder import CONFIG_FILE as ADAPTER_CONFIG
from fisao_pipeline.datasets.all_versions import AllVersions
from fisao_pipeline.datasets.keyed_folder import KeyedFolder
from fisao_pipeline.models.source import CONFIG_FILE, ModelSource, find_model, fingerprint, identity
from fisao_pipeline.params.lmms_eval import LmmsEvalParams
from fisao_pipeline.pipelines.lmms_eval.harness import Harness
from fisao_pipeline.pipelines.metrics import metrics_to_active_run

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, TaskResult]]


def run_lmms_eval(
    policy_backbone: ModelSource,
    policy_adapter_versions: AllVersions,
    lmms_results: KeyedFolder,
    params: LmmsEvalParams,
) -> tuple[Results, dict[str, Any]]:
    """Every task of the base and of the aligned model, those left out that an earlier run finished.

    lmms-eval takes no adapter, so the aligned model is merged for as long as it is asked, and only if it is.

    Returns:
        By model what was found by task; and what the figures hang on.
    """
    from fisao_pipeline.training.shards import digest  # noqa: PLC0415 - slow to import

    adapter_name, adapter = _adapter(policy_adapter_versions, params.adapter)
    base = _base_folder(policy_backbone)
    harness = _harness(base, policy_backbone, params)
    own_tasks = fingerprint(harness.include_path) if harness.include_path is not None else None
    settings = {
        "harness": f"lmms-eval {harness.version()}",
        "harness_model": harness.model,
        "model_args": ",".join(f"{name}={value}" for name, value in harness.model_args.items()),
        "device": harness.device,
        "limit": harness.limit,
        "harness_seed": harness.seed,
        "own_tasks": own_tasks,
        "base_model": identity(policy_backbone),
        "adapter": adapter_name,
        "adapter_fingerprint": fingerprint(adapter),
    }
    of_base = {name: value for name, value in settings.items() if not name.startswith("adapter")}
    owners = {"base": digest(of_base), "aligned": digest(settings["adapter_fingerprint"], of_base)}

    def measured(model: str, weights: Callable[[], Path]) -> dict[str, TaskResult]:
        found: dict[str, TaskResult] = {}
        for task in params.tasks:
            key = f"{model}-{task}-{owners[model]}"
            if (kept := lmms_results.get(key)) is None:
                harness.run(weights(), task, lmms_results.folder / key)
                kept = read_results(lmms_results.folder / key)
                lmms_results.put(key, kept)
            else:
                logger.info("lmms-eval: %s of %s was measured by an earlier run and is kept.", task, model)
            found |= kept
        return found

    results = {"base": measured("base", lambda: base)}
    with _merged(policy_backbone, adapter, lmms_results.folder / f"merged-{owners['aligned']}") as merged:
        results["aligned"] = measured("aligned", merged)
    return results, settings


def _adapter(versions: AllVersions, wanted: str) -> tuple[str, Path]:
    name, folder = versions.find(wanted)
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"lmms_eval.adapter: '{folder}' holds no {ADAPTER_CONFIG}, so it is no PEFT adapter")
    return name, folder


def _base_folder(backbone: ModelSource) -> Path:
    folder = find_model(backbone.path_or_id, backbone.revision)
    assert folder is not None, "without leave to download it is found or an error"
    return folder.absolute()


def _harness(base: Path, backbone: ModelSource, params: LmmsEvalParams) -> Harness:
    from fisao_pipeline.models.loading import resolve_device  # noqa: PLC0415 - slow to import

    device = str(resolve_device(backbone.device))
    known = {"device_map": device, "dtype": backbone.dtype}
    kind = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8"))["model_type"]
    if kind not in params.harness_models:
        raise ValueError(
            f"lmms_eval.harness_models: nothing for models of the kind {kind!r}; give lmms-eval's name for it"
        )
    chosen = params.harness_models[kind]
    own = {name: known[name] for name in chosen.passed}
    return Harness(
        python=_in_project(params.python),
        model=chosen.model,
        model_args={**own, **{name: str(value) for name, value in params.model_args.items()}},
        device=device,
        include_path=_in_project(params.include_path) if params.include_path else None,
        limit=params.limit,
        offline=params.offline,
        seed=params.seed,
    )


def _in_project(path: str) -> Path:
    """A path relative to the project, wherever the command was given; links stay, which an environment's Python is."""
    return (find_kedro_project(Path.cwd()) or Path.cwd()) / Path(path).expanduser()


@contextmanager
def _merged(backbone: ModelSource, adapter: Path, folder: Path) -> Iterator[Callable[[], Path]]:
    """Yield what makes the merged model when it is first asked for; it goes with the block, as it is a model's size."""
    from fisao_pipeline.models.merging import merge_adapter  # noqa: PLC0415 - slow to import

    def merged() -> Path:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            merge_adapter(backbone, adapter, folder)
        return folder.absolute()

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        yield merged
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare_lmms_results(results: Results, settings: dict[str, Any], params: LmmsEvalParams) -> dict[str, Any]:
    """Base against aligned by task, printed as a table as well, and logged to MLflow."""
    resampling = BootstrapSettings(params.bootstrap_resamples, params.confidence, params.seed)
    comparison = compare_tasks(results, settings, resampling)
    metrics = {
        f"{part}.{task}.{name.replace(',', '.')}": interval["value"]
        for part in ("base", "aligned", "change")
        for task, found in comparison[part].items()
        for name, interval in found.items()
        if interval["value"] is not None
    }
    with metrics_to_active_run("lmms_eval.") as log_metrics:
        log_metrics(metrics, 0)
    # Not through the log, which wraps lines.
    click.echo(f"\n{format_tasks(comparison)}\n")
    return comparison
