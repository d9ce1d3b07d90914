"""How well captions fit their images by the verifier, for CLIPScore."""

from __future__ import annotations

from collections.abc import Sequence

from fisao_pipeline.models.prompts import ImageOpener
from fisao_pipeline.models.verifier import Verifier


def caption_cosines(
    verifier: Verifier, image_ids: Sequence[str], texts: Sequence[str], open_image: ImageOpener
) -> tuple[list[float], int]:
    """Cosine of each text with its image, and how many different texts were cut to the verifier's context."""
    before = verifier.truncated_texts
    scores = verifier.score(image_ids, texts, open_image, whole_responses=True).clamp(-1, 1)
    return [float(score) for score in scores], verifier.truncated_texts - before
