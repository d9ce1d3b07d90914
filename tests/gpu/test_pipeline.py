"""All stages in bfloat16, as `kedro run` goes through them, on the device that a run finds by itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.gpu.test_cuda import needs_gpu
from tests.smoke_project import Smoke


def in_bfloat16(root: Path) -> None:
    """All models of a project are loaded in bfloat16."""
    for file in (root / "conf").rglob("catalog*.yml"):
        file.write_text(file.read_text().replace("dtype: float32", "dtype: bfloat16"))


def run_all(smoke: Smoke) -> list[str]:
    """Train and evaluate; returns the devices that the records name."""
    in_bfloat16(smoke.root)
    smoke.run("pocket_world", tags=["scenes"])
    # Random weights are hardly ever better after a round: kept is the last, whatever the probe says.
    version = smoke.run("train", policy_training={"keep": "last"})
    smoke.run("benchmark_evaluation")
    history = smoke.table("training_history", version)
    assert history["kl_k3"].iloc[1] == 0 < history["kl_k3"].iloc[2]
    assert history["ratio_mean"].iloc[1] == pytest.approx(1, abs=1e-3)
    adapter = smoke.folder("policy_adapter", "06_models") / version / "policy_adapter" / "adapter_model.safetensors"
    weights = load_file(adapter)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    records = (smoke.root / "data" / "smoke").rglob("provenance.json")
    found = [json.loads(record.read_text()) for record in records]
    return [record["device"] for record in found if record["dataset"] in ("responses", "policy_adapter", "predictions")]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.timeout(900)
def test_train_and_evaluation_on_the_gpu(tmp_path, mlflow_template):
    devices = run_all(Smoke.make(tmp_path / "project", mlflow_template))
    assert devices == [torch.cuda.get_device_name()] * 3


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, and the test above")
def test_the_same_without_one(tmp_path, mlflow_template):
    devices = run_all(Smoke.make(tmp_path / "project", mlflow_template))
    assert devices == [f"CPU {torch.backends.cpu.get_cpu_capability()}"] * 3
