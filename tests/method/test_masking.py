from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.method.batches import Batch, assert_matches, batches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method.masking import masked_mean, masked_row_means, masked_std, require_same_shape

VALUES = torch.tensor([[1.0, 2.0], [6.0, 100.0]])
MASK = torch.tensor([[True, True], [True, False]])
FUNCTIONS = [masked_mean, masked_std]


def test_mean_is_over_the_tokens_of_the_batch_and_not_per_row_first() -> None:
    assert masked_mean(VALUES, MASK).item() == 3.0  # rows first would give (1.5 + 6) / 2 = 3.75


def test_std_is_that_of_the_population() -> None:
    # Deviations −2, −1, 3: sqrt(14 / 3); a sample deviation would be sqrt(7).
    assert_matches(masked_std(VALUES, MASK), (14 / 3) ** 0.5)
    assert masked_std(torch.tensor([4.0]), torch.tensor([True])).item() == 0.0


@pytest.mark.parametrize("function", FUNCTIONS)
@given(batch=batches())
@few
def test_matches_reference(function, batch: Batch) -> None:
    values = batch.normal(3.0)
    assert_matches(function(values, batch.mask), getattr(reference, function.__name__)(values.tolist(), batch.mask))


@pytest.mark.parametrize("function", FUNCTIONS)
@given(batch=batches())
@few
def test_what_is_masked_changes_neither_value_nor_gradient(function, batch: Batch) -> None:
    clean = batch.normal().requires_grad_()
    soiled = batch.soiled(clean.detach()).requires_grad_()
    if function is masked_std and batch.mask.sum() < 2:
        return  # a spread of zero has no gradient
    torch.testing.assert_close(function(soiled, batch.mask), function(clean, batch.mask), rtol=0, atol=0)
    function(clean, batch.mask).backward()
    function(soiled, batch.mask).backward()
    torch.testing.assert_close(soiled.grad, clean.grad, rtol=0, atol=0)
    assert (soiled.grad[~batch.mask] == 0).all()


@pytest.mark.parametrize("function", FUNCTIONS)
@given(batch=batches())
@few
def test_order_of_the_batch_is_of_no_account(function, batch: Batch) -> None:
    values, order = batch.normal(), batch.order()
    torch.testing.assert_close(
        function(values[order], batch.mask[order]), function(values, batch.mask), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_refuses_an_empty_mask(function) -> None:
    with pytest.raises(ValueError, match=r"mask of shape \(2, 3\) counts no element"):
        function(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("function", [masked_mean, masked_std, masked_row_means])
def test_refuses_a_mask_that_would_be_broadcast(function) -> None:
    caller = "masked_mean" if function is masked_std else function.__name__
    with pytest.raises(ValueError, match=rf"^{caller}: these .* same shape: values \(2, 3\), mask \(1, 3\)$"):
        function(torch.zeros(2, 3), torch.ones(1, 3, dtype=torch.bool))


def test_require_same_shape_names_function_arguments_and_shapes() -> None:
    require_same_shape("f", a=torch.zeros(2, 3), b=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^f: .*a \(2, 3\), b \(3, 2\)$"):
        require_same_shape("f", a=torch.zeros(2, 3), b=torch.zeros(3, 2))


class TestRowMeans:
    def test_by_hand(self) -> None:
        assert masked_row_means(VALUES, MASK).tolist() == [1.5, 6.0]

    @given(batch=batches())
    @few
    def test_each_row_is_its_own_masked_mean_whatever_is_masked(self, batch: Batch) -> None:
        values = batch.normal()
        expected = [reference.masked_mean([r], [m]) for r, m in zip(values.tolist(), batch.mask, strict=True)]
        assert_matches(masked_row_means(batch.soiled(values), batch.mask), expected)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"masked_row_means.*counts no element of row 1"):
            masked_row_means(VALUES, torch.tensor([[True, True], [False, False]]))
