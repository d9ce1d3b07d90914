"""The adapter's folder is one that peft opens, and holds no pickles."""

import json

import pytest
import torch
from kedro.io import DatasetError, Version
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from fisao_pipeline.datasets import AdapterArtifact, AdapterFolderDataset


def adapters(folder, save="v1", load=None):
    return AdapterFolderDataset(filepath=str(folder / "policy_adapter"), version=Version(load, save))


class Tiny(torch.nn.Module):
    """A model with one layer to adapt."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.q_proj = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.q_proj(x)


def trained():
    model = get_peft_model(Tiny(), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    config = model.peft_config["default"].to_dict()
    return model, AdapterArtifact(
        config, get_peft_model_state_dict(model), model_card="# Adapter\n", base_model="sha256:0"
    )


def test_peft_opens_the_folder_and_computes_the_same(tmp_path):
    model, artifact = trained()
    adapters(tmp_path).save(artifact)
    folder = adapters(tmp_path).load()
    again = PeftModel.from_pretrained(Tiny(), folder)
    x = torch.randn(3, 4)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "base_model.json",
    ]


def test_versions_stand_side_by_side(tmp_path):
    _, artifact = trained()
    adapters(tmp_path, "v1").save(artifact)
    adapters(tmp_path, "v2").save(artifact)
    assert adapters(tmp_path).load() == tmp_path / "policy_adapter" / "v2" / "policy_adapter"
    assert adapters(tmp_path, load="v1").load().parent.name == "v1"


def test_tensors_that_share_memory_and_need_gradients_are_saved(tmp_path):
    shared = torch.ones(2, 2, requires_grad=True)
    adapters(tmp_path).save(AdapterArtifact({"r": 2}, {"a": shared, "b": shared, "c": shared.t()}))
    assert adapters(tmp_path).exists()
    assert shared.requires_grad


def test_a_failing_save_leaves_the_adapter_before(tmp_path, monkeypatch):
    _, artifact = trained()
    adapters(tmp_path, "v1").save(artifact)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DatasetError, match="No space left on device"):
        adapters(tmp_path, "v2").save(artifact)
    assert adapters(tmp_path).load().parent.name == "v1"
    assert [path.name for path in (tmp_path / "policy_adapter").iterdir()] == ["v1"]


def test_what_is_not_an_adapter_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no tensors"):
        adapters(tmp_path).save(AdapterArtifact({}, {}))
    with pytest.raises(DatasetError, match="not from dict"):
        adapters(tmp_path).save({"a": 1})
    (tmp_path / "policy_adapter" / "v1" / "policy_adapter").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"adapter_config\.json and adapter_model\.safetensors missing"):
        adapters(tmp_path).load()


def test_a_glimpse_tells_what_is_set_in_the_configuration(tmp_path):
    _, artifact = trained()
    one = adapters(tmp_path)
    one.save(artifact)
    path = tmp_path / "policy_adapter" / "v1" / "policy_adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    for base, said in (("/home/me/llava", "llava"), ("llava-hf/llava", "llava-hf/llava")):
        path.write_text(json.dumps(config | {"base_model_name_or_path": base}))
        assert json.loads("".join(one.glimpse()))["base_model_name_or_path"] == said
    shown = json.loads("".join(one.glimpse()))
    assert shown["target_modules"] == ["q_proj"]
    assert not {None, False} & {value for value in shown.values() if not isinstance(value, list | dict)}
