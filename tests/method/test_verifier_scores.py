from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import assert_matches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.verifier_scores import cosine_scores, max_cosine_scores


def pairs(seed: int, count: int = 5, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator), torch.randn(count, width, generator=generator)


def test_by_hand() -> None:
    image = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    text = torch.tensor([[4.0, 3.0], [0.0, 5.0], [-2.0, -2.0], [0.5, 0.0]])
    assert_matches(cosine_scores(image, text), [24 / 25, 0.0, -1.0, 1.0])


@given(seed=st.integers(0, 2**31))
@few
def test_matches_reference(seed: int) -> None:
    image, text = pairs(seed)
    expected = [reference.cosine(i, t) for i, t in zip(image.tolist(), text.tolist(), strict=True)]
    assert_matches(cosine_scores(image, text), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_is_computed_in_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    image, text = (x.to(dtype) for x in pairs(0, count=50, width=64))
    scores = cosine_scores(image, text)
    assert scores.dtype == torch.float32
    assert_matches(scores, [reference.cosine(i, t) for i, t in zip(image.tolist(), text.tolist(), strict=True)])


@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
@few
def test_lengths_are_of_no_account(seed: int, scale: float) -> None:
    image, text = pairs(seed)
    torch.testing.assert_close(
        cosine_scores(image * scale, text / scale), cosine_scores(image, text), rtol=1e-5, atol=1e-6
    )


@given(seed=st.integers(0, 2**31))
@few
def test_order_and_swap(seed: int) -> None:
    image, text = pairs(seed)
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(seed))
    scores = cosine_scores(image, text)
    torch.testing.assert_close(cosine_scores(image[order], text[order]), scores[order], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(cosine_scores(text, image), scores, rtol=1e-5, atol=1e-7)


def test_never_leaves_the_range_by_rounding() -> None:
    vectors, _ = pairs(1, count=2000, width=3)
    raw = (vectors * vectors * 7).sum(-1) / (vectors.norm(dim=-1) * (vectors * 7).norm(dim=-1))
    assert raw.max() > 1  # rounding does leave it
    assert cosine_scores(vectors, vectors * 7).max() <= 1
    assert cosine_scores(vectors, vectors * -7).min() >= -1


@pytest.mark.parametrize("name", ["image_embeddings", "text_embeddings"])
def test_refuses_an_embedding_of_length_zero(name: str) -> None:
    embeddings = {"image_embeddings": torch.ones(2, 3), "text_embeddings": torch.ones(2, 3)}
    embeddings[name] = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match=f"{name} has length zero"):
        cosine_scores(**embeddings)


@pytest.mark.parametrize("shape", [(1, 3), (2, 1), (3, 2)])
def test_refuses_shapes_that_differ(shape: tuple[int, int], as_in_production: None) -> None:
    pattern = rf"^cosine_scores: image_embeddings \(2, 3\) and text_embeddings \({shape[0]}, {shape[1]}\) must"
    with pytest.raises(ValueError, match=pattern):
        cosine_scores(torch.ones(2, 3), torch.ones(shape))


class TestMaxCosine:
    def test_by_hand(self) -> None:
        # Cosines of the three queries with (1, 0): 0, 0.8, −1; with (0, 2): 1, 0.6, 0.
        queries = torch.tensor([[0.0, 3.0], [4.0, 3.0], [-1.0, 0.0]])
        scores = max_cosine_scores(queries.expand(2, 3, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        torch.testing.assert_close(scores, torch.tensor([0.8, 1.0]))

    @given(seed=st.integers(0, 2**31), queries=st.integers(1, 5))
    @few
    def test_matches_reference_in_any_order_of_pairs(self, seed: int, queries: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        images, texts = (torch.randn(shape, generator=generator) for shape in ((4, queries, 6), (4, 6)))
        expected = [
            max(reference.cosine(query, text) for query in image)
            for image, text in zip(images.tolist(), texts.tolist(), strict=True)
        ]
        scores = max_cosine_scores(images, texts)
        assert_matches(scores, expected)
        order = torch.randperm(4, generator=generator)
        torch.testing.assert_close(max_cosine_scores(images[order], texts[order]), scores[order], rtol=1e-5, atol=1e-7)

    def test_is_the_best_single_query_whatever_their_order(self) -> None:
        images, texts = (
            torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((4, 5, 6), (4, 6))
        )
        each = torch.stack([cosine_scores(images[:, q], texts) for q in range(5)])
        torch.testing.assert_close(max_cosine_scores(images, texts), each.amax(dim=0))
        torch.testing.assert_close(max_cosine_scores(images.flip(1), texts), each.amax(dim=0))
        torch.testing.assert_close(max_cosine_scores(images[:, :1], texts), each[0])

    def test_refuses(self, as_in_production: None) -> None:
        for images, texts in (((2, 3, 4), (1, 4)), ((2, 3, 4), (2, 1)), ((2, 0, 4), (2, 4))):
            with pytest.raises(ValueError, match=r"^max_cosine_scores: .*same width, and at least one query"):
                max_cosine_scores(torch.ones(images), torch.ones(texts))
        with pytest.raises(ValueError, match="length zero"):
            max_cosine_scores(torch.zeros(1, 2, 3), torch.ones(1, 3))
