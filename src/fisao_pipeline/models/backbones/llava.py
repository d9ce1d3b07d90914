"""LLaVA-1.5: every image is one picture of one shape, so a batch goes through the vision tower at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fisao_pipeline.models.backbones.generic import BackboneKind
from fisao_pipeline.models.feeding import to_device


class Llava(BackboneKind):
    """LLaVA with a tower of fixed size, CLIP's for instance.

    Raises:
        ValueError: If the tower is Pixtral's, whose processor works with torchvision only.
    """

    batches_images = True
    equal_images = True

    def check(self) -> None:
        """Refuse Pixtral's tower; see the class."""
        if self.model.config.vision_config.model_type == "pixtral":
            raise ValueError(
                f"{self.model.name_or_path!r} is a LLaVA around Pixtral's vision tower, which takes images of any "
                "size; a LLaVA with a tower of fixed size, such as llava-hf/llava-1.5-7b-hf, is supported"
            )
        super().check()

    def features(self, encoded: Mapping[str, Tensor], rows: Sequence[int]) -> list[Tensor]:
        """Vision features of rows, each [patches, d]."""
        pixels = to_device(encoded["pixel_values"][list(rows)], self.model.device).to(self.model.dtype)
        return list(self.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output)
