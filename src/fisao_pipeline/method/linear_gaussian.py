"""A linear-Gaussian model of image, prompt and response features: the world in which Theorem 3.1 is looked at.

All of it is this project's own, as the paper's conditions could not be read. Features (x_v, x_t) of image and prompt
are jointly normal with mean 0 and covariance Σ [n, n], n = i + p; the response is d numbers instead of words:

    truth                          y* = A x_v + B x_t + ε,           ε ~ N(0, σ² I)
    untuned policy                 π₀(y | x) = N(m₀, τ² I),          m₀ = W x_v + V x_t
    verifier's view of an image    C x_v

Shapes: ``b`` draws, ``d`` response, ``i`` image and ``p`` prompt features. In code A is ``image_map``, B ``text_map``,
W ``policy_image_map``, V ``policy_text_map``, C ``verifier_map``, Σ ``feature_cov``, σ ``noise_std``, τ ``policy_std``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LinearGaussianModel:
    """The maps and spreads of the truth, the untuned policy and the verifier.

    Raises:
        ValueError: If shapes do not fit, a spread is negative (``policy_std``: or zero) or the covariance is not one.
    """

    image_map: Float[Tensor, "d i"]
    text_map: Float[Tensor, "d p"]
    policy_image_map: Float[Tensor, "d i"]
    policy_text_map: Float[Tensor, "d p"]
    verifier_map: Float[Tensor, "d i"]
    feature_cov: Float[Tensor, "n n"]
    noise_std: float
    policy_std: float

    def __post_init__(self) -> None:
        d, i = self.image_map.shape
        p = self.text_map.shape[-1]
        for name, width in {"text_map": p, "policy_image_map": i, "policy_text_map": p, "verifier_map": i}.items():
            _require_shape(name, getattr(self, name), d, width)
        _require_covariance(self.feature_cov, i + p)
        if self.noise_std < 0 or self.policy_std <= 0:
            raise ValueError(f"noise_std {self.noise_std} must be ≥ 0 and policy_std {self.policy_std} > 0")

    @property
    def image_cov(self) -> Float[Tensor, "i i"]:
        """Σ_vv, the covariance of the image features."""
        width = self.image_map.shape[1]
        return self.feature_cov[:width, :width]


class Draws(NamedTuple):
    """Features of images and prompts, the true responses to them, and the images of others."""

    image: Float[Tensor, "b i"]
    text: Float[Tensor, "b p"]
    other_image: Float[Tensor, "b i"]
    truth: Float[Tensor, "b d"]


def language_prior_policy(
    image_map: Float[Tensor, "d i"],
    text_map: Float[Tensor, "d p"],
    feature_cov: Float[Tensor, "n n"],
    ignored_share: float,
) -> tuple[Float[Tensor, "d i"], Float[Tensor, "d p"]]:
    """A policy that guesses a share b of what the image says from the prompt: W, V.

    m₀ = A ((1 − b) x_v + b E[x_v | x_t]) + B x_t,   so  W = (1 − b) A,  V = B + b A Σ_vt Σ_tt⁻¹.

    It then misses y* − m₀ = b A (x_v − E[x_v | x_t]) + ε. What it misses and the verifier sees (`missed_and_seen`) is
    c = b tr(Cᵀ A Σ_v|t) with Σ_v|t = Σ_vv − Σ_vt Σ_tt⁻¹ Σ_tv: positive if b > 0 and the verifier agrees with the truth
    on what the prompt leaves open about the image.

    Raises:
        ValueError: If the share is not in [0, 1] or the covariance is not one of i + p features.
    """
    if not 0 <= ignored_share <= 1:
        raise ValueError(f"ignored_share must lie in [0, 1], got {ignored_share}")
    width = image_map.shape[1]
    _require_covariance(feature_cov, width + text_map.shape[1])
    from_text = torch.linalg.solve(feature_cov[width:, width:], feature_cov[width:, :width]).T
    return (1 - ignored_share) * image_map, text_map + ignored_share * image_map @ from_text


def draw_model(
    dims: tuple[int, int, int],
    ignored_share: float,
    image_text_correlation: float,
    verifier_error: float,
    noise_std: float,
    policy_std: float,
    generator: torch.Generator,
) -> LinearGaussianModel:
    """Draw a model in float64 whose policy is that of `language_prior_policy` with the given ignored share.

    A, B and the verifier's error E have normal entries of variance 1 / columns, so that a response feature has variance
    about 1 from either modality; C = A + verifier_error · E. Features have variance 1; the first min(i, p) of the image
    correlate one by one with those of the prompt.

    Args:
        dims: Numbers of response, image and prompt features: d, i, p.
        ignored_share: Share b of what the image says that the policy guesses from the prompt.
        image_text_correlation: Of a prompt feature with its image feature, in [−1, 1).
        verifier_error: Spread of the verifier's own error against the truth's map.
        noise_std: σ, what neither image nor prompt tells about the response.
        policy_std: τ, spread of the policy's responses.
        generator: Of every draw.

    Raises:
        ValueError: As `LinearGaussianModel` and `language_prior_policy` do.
    """
    d, i, p = dims

    def linear_map(columns: int) -> Tensor:
        return torch.randn(d, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)

    image_map, text_map, error = linear_map(i), linear_map(p), linear_map(i)
    crossed = image_text_correlation * torch.eye(i, p, dtype=torch.float64)
    feature_cov = torch.eye(i + p, dtype=torch.float64)
    feature_cov[:i, i:], feature_cov[i:, :i] = crossed, crossed.T
    policy = language_prior_policy(image_map, text_map, feature_cov, ignored_share)
    return LinearGaussianModel(
        image_map, text_map, *policy, image_map + verifier_error * error, feature_cov, noise_std, policy_std
    )


def policy_bias(model: LinearGaussianModel) -> Float[Tensor, ""]:
    """How far the untuned policy's mean is from the truth's: tr(D Σ Dᵀ), D = [A − W, B − V] [d, n]."""
    missed = _missed(model)
    return ((missed @ model.feature_cov) * missed).sum()


def missed_and_seen(model: LinearGaussianModel) -> Float[Tensor, ""]:
    """What the policy misses and the verifier sees, as a covariance: c = E⟨y* − m₀, C x_v⟩ = tr(D [Σ_vv; Σ_tv] Cᵀ)."""
    return ((_missed(model) @ model.feature_cov[:, : model.image_map.shape[1]]) * model.verifier_map).sum()


def feedback_power(model: LinearGaussianModel) -> Float[Tensor, ""]:
    """Mean square of the verifier's view: q = E‖C x_v‖² = tr(C Σ_vv Cᵀ), the same for the images of others."""
    return ((model.verifier_map @ model.image_cov) * model.verifier_map).sum()


def draw_features(model: LinearGaussianModel, samples: int, generator: torch.Generator) -> Draws:
    """Draw images with their prompts and true responses, and for each an image that has nothing to do with it."""

    def normal(width: int) -> Tensor:
        return torch.randn(samples, width, generator=generator, dtype=model.image_map.dtype)

    d, i = model.image_map.shape
    root = _square_root(model.feature_cov)
    image, text = (normal(len(root)) @ root).tensor_split([i], dim=1)
    other_image = (normal(len(root)) @ root)[:, :i]
    truth = image @ model.image_map.T + text @ model.text_map.T + model.noise_std * normal(d)
    return Draws(image, text, other_image, truth)


def _missed(model: LinearGaussianModel) -> Float[Tensor, "d n"]:
    return torch.cat([model.image_map - model.policy_image_map, model.text_map - model.policy_text_map], dim=1)


def _square_root(covariance: Tensor) -> Tensor:
    """The symmetric root, which a Cholesky factor is not where a feature is a copy of another (singular Σ)."""
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _require_shape(name: str, tensor: Tensor, rows: int, columns: int) -> None:
    if tensor.shape != (rows, columns):
        raise ValueError(f"{name} must have shape ({rows}, {columns}), got {tuple(tensor.shape)}")


def _require_covariance(covariance: Tensor, width: int) -> None:
    _require_shape("feature_cov", covariance, width, width)
    if not torch.allclose(covariance, covariance.T):
        raise ValueError("feature_cov must be symmetric")
    values = torch.linalg.eigvalsh(covariance)
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"feature_cov must be a covariance, its lowest eigenvalue is {values[0].item():g}")
