"""Names for finished work that hold everything it depends on: other settings, models or data make another name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from pydantic import BaseModel

from fisao_pipeline import __version__
from fisao_pipeline.experiments.arms import StudyRow
from fisao_pipeline.method.vocabulary import file_digest
from fisao_pipeline.models.source import ModelSource, identity
from fisao_pipeline.params.benchmark_evaluation import BenchmarkEvaluationParams
from fisao_pipeline.params.flat import masked
from fisao_pipeline.params.response_sampling import ResponseSamplingParams


@dataclass(frozen=True)
class StudyInputs:
    """What all rows of a study have in common, and with it the names of rows and of shared work.

    The git commit is left out on purpose: a commit that changes no result would throw away hours of work. A release
    that does change results has another version.

    Attributes:
        backbone: What tells the policy before training from any other.
        verifier: The same of the verifier.
        data: Digest of the ingested tables; the manifest in it holds a hash of every image.
        version: Of this package.
    """

    backbone: str
    verifier: str
    data: str
    version: str = __version__

    @classmethod
    def of(cls, backbone: ModelSource, verifier: ModelSource, tables: Mapping[str, Any]) -> StudyInputs:
        """Identify models and data; tables are DataFrames or JSON-ready values by name."""
        return cls(_model(backbone), _model(verifier), _digest({name: _plain(table) for name, table in tables.items()}))

    def to_dict(self) -> dict[str, str]:
        """JSON-ready form."""
        return asdict(self)

    def row_key(self, row: StudyRow) -> str:
        """Name of a finished row. The arm's name is no part of it: the same settings are the same row.

        Nor is a parameter that has a default and is at it: it came later and changes nothing, so rows of before count.
        """
        flat = row.settings.flat(exclude_defaults=True)
        vocabularies = [flat["reward_annotation.vocabulary"], flat["benchmark_evaluation.vocabulary"]]
        parts = {
            "parameters": flat,
            "vocabularies": [file_digest(source) for source in vocabularies],
            **self.to_dict(),
        }
        return f"seed-{row.seed}-{_digest(parts)}"

    def responses_keys(self, sampling: ResponseSamplingParams) -> tuple[str, str]:
        """Names of the untrained policy's responses (calibration, first round) and of its too long prompts."""
        # Kept tables that do not say which backbone made them could not be trained on.
        digest = _digest([self._without_verifier(sampling), "with backbone"])
        return f"responses-{digest}", f"rejected-prompts-{digest}"

    def base_key(self, evaluation: BenchmarkEvaluationParams) -> str:
        """Name of the base model's answers to the held-out prompts."""
        return f"base-predictions-{self._without_verifier(evaluation)}"

    def _without_verifier(self, block: BaseModel) -> str:
        return _digest([block.model_dump(mode="json", exclude_defaults=True), self.backbone, self.data, self.version])


def _model(source: ModelSource) -> str:
    # Neither of these changes the files, but both change what comes out.
    loaded = source.dtype if source.quantization is None else f"{source.quantization} in {source.dtype}"
    # Kept with the rows, so no secret is in it.
    return f"{identity(source)} {loaded} {json.dumps(masked(source.options), sort_keys=True, default=str)}"


def _plain(table: Any) -> Any:
    return json.loads(table.to_json(orient="split")) if isinstance(table, pd.DataFrame) else table


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
