"""How nodes hand a model that they made to the catalog."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def saver(model: PreTrainedModel, processor: ProcessorMixin) -> Callable[[Path], None]:
    """What saves a model with its processor, for a ``ModelFolderDataset``."""

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    return save
