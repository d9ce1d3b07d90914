"""The toy project with one node more, which trains an adapter of one tensor, and one that reads it."""

from collections.abc import Callable
from pathlib import Path

CATALOG = """
policy_adapter:
  type: fisao_pipeline.datasets.AdapterFolderDataset
  filepath: data/policy_adapter
  versioned: true
answers:
  type: fisao_pipeline.datasets.AtomicDataset
  dataset: json.JSONDataset
  filepath: data/answers.json
  versioned: true
"""
NODES = """

def train(count, behaviour):
    import torch
    from fisao_pipeline.datasets.adapter_folder import AdapterArtifact

    config = {"peft_type": "LORA", "base_model_name_or_path": "/home/somebody/models/pocket vlm"}
    return AdapterArtifact(config, {"lora_A": torch.full((4,), float(len(behaviour)))}, model_card="# An adapter")


def answer(policy_adapter):
    return policy_adapter.name
"""
WIRED = """        Node(train, ["count", "params:behaviour"], "policy_adapter", name="train"),
        Node(answer, ["policy_adapter"], "answers", name="answer"),
    ])"""
PARAMETERS = """
runtime: {deterministic: false, registered_model: "fisao-{base_model}"}
"""
REGISTERED = "fisao-pocket-vlm"


def with_adapter(toy_project: Callable[..., Path]) -> Path:
    """Make it; the toy project's other nodes stay."""
    project = toy_project()
    base = project / "conf" / "base"
    for name, more in (("catalog.yml", CATALOG), ("parameters.yml", PARAMETERS)):
        (base / name).write_text((base / name).read_text() + more)
    nodes = next(project.glob("src/*/nodes.py"))
    head, pipeline = nodes.read_text().split("def create_pipeline")
    nodes.write_text(head + NODES.lstrip() + "\n\ndef create_pipeline" + pipeline.replace("    ])", WIRED))
    return project
