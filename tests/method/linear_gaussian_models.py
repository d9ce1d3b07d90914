"""Random linear-Gaussian models for the properties, in float64."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st

from fisao_pipeline.method.linear_gaussian import LinearGaussianModel, missed_and_seen
from fisao_pipeline.method.vision_feedback import Tuning

SEEDS = st.integers(0, 2**31)
RELEVANCES = st.floats(0.0, 1.0)


def any_model(seed: int, d: int, i: int, p: int, noise_std: float, policy_std: float) -> LinearGaussianModel:
    """Unrelated maps and a random covariance of full rank: no condition of the theorem is built in."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    factor = normal(i + p, i + p)
    covariance = factor @ factor.T / (i + p) + 0.1 * torch.eye(i + p, dtype=torch.float64)
    return LinearGaussianModel(
        image_map=normal(d, i),
        text_map=normal(d, p),
        policy_image_map=normal(d, i),
        policy_text_map=normal(d, p),
        verifier_map=normal(d, i),
        feature_cov=covariance,
        noise_std=noise_std,
        policy_std=policy_std,
    )


@st.composite
def models(draw: st.DrawFn) -> LinearGaussianModel:
    sizes = [draw(st.integers(1, 4)) for _ in range(3)]
    return any_model(draw(SEEDS), *sizes, draw(st.floats(0, 2)), draw(st.floats(0.1, 2)))


@st.composite
def informative_models(draw: st.DrawFn) -> LinearGaussianModel:
    """The same, where the verifier sees what the policy misses: half of all are, the others after a change of sign."""
    model = draw(models())
    return model if missed_and_seen(model) > 0 else replace(model, verifier_map=-model.verifier_map)


tunings = st.builds(Tuning, st.floats(0.05, 2), st.floats(0, 2))
