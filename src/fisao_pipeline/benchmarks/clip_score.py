"""CLIPScore: how well a caption fits its image, from cosines that a verifier gave (Hessel et al., EMNLP 2021)."""

from __future__ import annotations

import math

import pandas as pd

from fisao_pipeline.benchmarks.bootstrap import BootstrapSettings, bootstrap_metrics
from fisao_pipeline.benchmarks.ratios import RatioMetrics
from fisao_pipeline.benchmarks.scores import Scores

WEIGHT = 2.5
PREFIX = "A photo depicts "
CLIP_METRICS: RatioMetrics = {"clip_score": ("clip_score", "captions")}


def clip_text(caption: str) -> str:
    """What the reference has CLIP read in place of a caption."""
    return PREFIX + caption


def clip_score(cosine: float) -> float:
    """2.5 · max(cos, 0).

    Raises:
        ValueError: No cosine.

    Source: jmhessel/clipscore. The published figures are of CLIP ViT-B/32; those of another CLIP do not compare.
    """
    if not -1 - 1e-6 <= cosine <= 1 + 1e-6 or math.isnan(cosine):
        raise ValueError(f"a cosine lies between -1 and 1, not {cosine}")
    return WEIGHT * max(cosine, 0.0)


def score_clip(predictions: pd.DataFrame, settings: BootstrapSettings | None = None) -> Scores:
    """Mean CLIPScore of captions.

    Args:
        predictions: ``line``, ``item_id`` (the image) and ``response``, the cosine of caption and image.
        settings: Resampling of images.
    """
    items = predictions.rename(columns={"response": "cosine"}).reset_index(drop=True)
    scores = [clip_score(cosine) for cosine in items["cosine"]]
    items = items.assign(image_id=items["item_id"], captions=1, clip_score=scores)
    return Scores(bootstrap_metrics(items, CLIP_METRICS, settings), items, {"captions": len(items), "weight": WEIGHT})
