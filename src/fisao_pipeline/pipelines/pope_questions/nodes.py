"""Node of `pope_questions`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fisao_pipeline.benchmarks.pope import STRATEGIES, build_questions, question_rows
from fisao_pipeline.datasets.json_stream import open_json
from fisao_pipeline.ingestion.image_truth import read_truth
from fisao_pipeline.params.pope_questions import PopeQuestionsParams


def build_pope_questions(params: PopeQuestionsParams) -> tuple[list[dict[str, Any]], ...]:
    """Rows of the random, popular and adversarial questions.

    Raises:
        ValueError: No annotations are given, or too few images have enough objects.
    """
    if params.instances is None or not Path(params.instances).is_file():
        raise ValueError(f"pope_questions.instances: {params.instances!r} is no file; give COCO instances")
    path = Path(params.instances)
    truth = read_truth([(path.name, open_json(path))])
    names = {image_id: name for name, image_id in truth.file_names.items()}
    return tuple(
        question_rows(
            build_questions(
                truth.objects,
                strategy,
                n_images=params.images,
                n_positives=params.objects_per_image,
                seed=params.seed,
            ),
            names,
        )
        for strategy in STRATEGIES
    )
