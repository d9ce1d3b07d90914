"""Parameters of `theorem`."""

from __future__ import annotations

from pydantic import Field

from fisao_pipeline.params.base import Seed, StageParams


class TheoremParams(StageParams):
    """The linear-Gaussian model in which Theorem 3.1 is looked at, and how its loss is traced."""

    response_features: int = Field(ge=1, le=512)
    image_features: int = Field(ge=1, le=512)
    text_features: int = Field(ge=1, le=512)
    ignored_share: float = Field(ge=0, le=1, description="Share of the image that the policy guesses from the prompt.")
    image_text_correlation: float = Field(gt=-1, lt=1, description="Of an image feature with its prompt feature.")
    verifier_error: float = Field(ge=0, description="Spread of the verifier's own error; the truth's map has 1.")
    noise_std: float = Field(ge=0, description="σ, what neither image nor prompt tells about the response.")
    policy_std: float = Field(gt=0, description="τ, spread of the untuned policy's responses.")
    kl_coef: float = Field(gt=0, description="β of the KL penalty.")
    self_weight: float = Field(ge=0, description="α, weight of the policy's own preference in the reward.")
    max_vision_weight: float = Field(gt=0, description="Highest weight λ of the vision feedback.")
    vision_weights: int = Field(ge=2, le=1000, description="Weights from 0 to the highest, evenly spaced.")
    samples: int = Field(ge=2, description="Draws per weight in the simulation.")
    seed: Seed
