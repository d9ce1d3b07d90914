"""InternVL in transformers' own form: the features of all tiles of a batch as one tensor."""

from __future__ import annotations

from fisao_pipeline.models.backbones.generic import BackboneKind


class InternVl(BackboneKind):
    """InternVL whose checkpoint is converted for transformers (names that end in -hf)."""

    lists_features = False
