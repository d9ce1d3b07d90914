"""The verifier's score S of an object in an image: the cosine between its two embeddings, or the best of several."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def cosine_scores(image_embeddings: Float[Tensor, "m d"], text_embeddings: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Score each (image, text) pair.

    S(v, w) = ⟨N(f_v(v)), N(f_t(w))⟩ with N(u) = u / ‖u‖₂, computed in float32 whatever the embeddings' precision; never
    multiplied by the contrastive model's logit scale.

    Args:
        image_embeddings: f_v(v), one row a pair.
        text_embeddings: f_t(w), one row a pair.

    Returns:
        Cosines in [-1, 1].

    Raises:
        ValueError: If the shapes differ or an embedding has length zero.

    Source: FiSAO, section 3.1 (arXiv 2410.14148).
    """
    if image_embeddings.shape != text_embeddings.shape:
        raise ValueError(
            f"cosine_scores: image_embeddings {tuple(image_embeddings.shape)} and text_embeddings "
            f"{tuple(text_embeddings.shape)} must have the same shape"
        )
    image, text = image_embeddings.float(), text_embeddings.float()
    image_lengths, text_lengths = image.norm(dim=-1), text.norm(dim=-1)
    for name, lengths in (("image_embeddings", image_lengths), ("text_embeddings", text_lengths)):
        if (lengths == 0).any():
            raise ValueError(f"cosine_scores: a row of {name} has length zero")
    return ((image * text).sum(dim=-1) / (image_lengths * text_lengths)).clamp(-1.0, 1.0)


def max_cosine_scores(
    image_embeddings: Float[Tensor, "m q d"], text_embeddings: Float[Tensor, "m d"]
) -> Float[Tensor, " m"]:
    """Score each (image, text) pair where an image has several embeddings, one a query: the best of them counts.

    S(v, w) = max_q ⟨N(f_v(v)_q), N(f_t(w))⟩, each cosine as in ``cosine_scores``.

    Args:
        image_embeddings: f_v(v)_q, the q embeddings of the image of each pair.
        text_embeddings: f_t(w), one row a pair.

    Returns:
        Cosines in [-1, 1].

    Raises:
        ValueError: If the numbers of pairs or the widths differ, there is no query, or an embedding has length zero.

    Source: Li et al., "BLIP-2" (arXiv 2301.12597), section 3.1, image-text contrastive learning.
    """
    pairs, queries, width = image_embeddings.shape
    if (pairs, width) != tuple(text_embeddings.shape) or not queries:
        raise ValueError(
            f"max_cosine_scores: image_embeddings {tuple(image_embeddings.shape)} and text_embeddings "
            f"{tuple(text_embeddings.shape)} must have as many rows, the same width, and at least one query"
        )
    repeated = text_embeddings.unsqueeze(1).expand(-1, queries, -1)
    each = cosine_scores(image_embeddings.flatten(0, 1), repeated.flatten(0, 1))
    return each.unflatten(0, (pairs, queries)).amax(dim=1)
