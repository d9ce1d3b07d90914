"""A LoRA adapter as a versioned folder that `PeftModel.from_pretrained` opens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError, Version

from fisao_pipeline.datasets.atomic import AtomicVersions
from fisao_pipeline.datasets.preview import of_json
from fisao_pipeline.models.source import BASE_MODEL_FILE

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Beside an adapter: whose checkpoints are done with once it is there.
RUN_FILE = "training_run.json"


@dataclass(frozen=True)
class AdapterArtifact:
    """A trained adapter in memory.

    Attributes:
        config: The adapter's PEFT configuration, as `PeftConfig.to_dict()` gives it.
        state_dict: The adapter's tensors under the names of `peft.get_peft_model_state_dict`.
        model_card: Text of a README.md to put beside the weights, if any.
        base_model: `models.source.identity` of the model that it was trained on, to put beside the weights, if known.
        training_run: What the run that made it is known by, to put beside the weights, if it kept checkpoints.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    model_card: str | None = None
    base_model: str | None = None
    training_run: str | None = None


class AdapterFolderDataset(AtomicVersions):
    """Saves an `AdapterArtifact` as a PEFT folder, loads the folder's path.

    ```yaml
    policy_adapter:
      type: fisao_pipeline.datasets.AdapterFolderDataset
      filepath: data/06_models/policy_adapter
      versioned: true
    ```
    """

    def __init__(
        self, *, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Point at the folder.

        Args:
            filepath: Local path; with `versioned: true` the folder of the versions.
            version: Set by Kedro for `versioned: true`.
            metadata: Ignored here, read by Kedro-Viz.
        """
        super().__init__(filepath, version, metadata)

    def glimpse(self) -> list[str]:
        """What is set in the adapter's configuration."""
        config = json.loads((self.load() / CONFIG_FILE).read_text(encoding="utf-8"))
        base = Path(str(config.get("base_model_name_or_path")))
        if base.is_absolute():  # a folder of this machine, which means nothing on another
            config["base_model_name_or_path"] = base.name
        # PEFT writes every option that it knows, most of them unset.
        return of_json({name: value for name, value in config.items() if value not in (None, False, [], {})})

    def _write(self, data: AdapterArtifact, path: Path) -> None:
        if not isinstance(data, AdapterArtifact):
            raise DatasetError(f"An adapter folder is saved from an AdapterArtifact, not from {type(data).__name__}.")
        if not data.state_dict:
            raise DatasetError("The adapter has no tensors; a folder without weights could not be loaded.")
        path.mkdir()
        config = json.dumps(data.config, indent=2, sort_keys=True, default=_plain)
        (path / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")
        _write_weights(data.state_dict, path / WEIGHTS_FILE)
        if data.base_model is not None:
            (path / BASE_MODEL_FILE).write_text(json.dumps({"identity": data.base_model}) + "\n", encoding="utf-8")
        if data.training_run is not None:
            (path / RUN_FILE).write_text(json.dumps({"run": data.training_run}) + "\n", encoding="utf-8")
        if data.model_card is not None:
            (path / "README.md").write_text(data.model_card, encoding="utf-8")

    def _read(self, path: Path) -> Path:
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (path / name).is_file()]
        if missing:
            raise DatasetError(f"'{path}' is not an adapter folder: {' and '.join(missing)} missing.")
        return path


def training_run(folder: Path) -> str | None:
    """What the run that made an adapter is known by; None where its folder does not say."""
    file = folder / RUN_FILE
    return json.loads(file.read_text(encoding="utf-8"))["run"] if file.is_file() else None


def _write_weights(state_dict: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch, which reading the catalog shall not

    # Cloning unties shared storage, which safetensors refuses, and leaves the training loop's tensors alone.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _plain(value: Any) -> Any:
    """PEFT keeps target modules in sets and its types in enums, which JSON does not know."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return getattr(value, "value", None) or str(value)
