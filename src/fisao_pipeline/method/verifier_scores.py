"""The verifier's score S of an object in an image: a plain cosine between its two embeddings."""

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
