from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.method.batches import assert_matches, few
from tests.references import method_float64 as reference

from fisao_pipeline.method import logprobs as logprobs_module
from fisao_pipeline.method.logprobs import projected_token_logprobs, sampling_logits, token_logprobs

LOGITS = torch.tensor([[math.log(1.0), math.log(3.0), math.log(4.0)]])  # probabilities 1/8, 3/8, 4/8
SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.floats(0.2, 3.0)


def example(seed: int, rows: int = 9, width: int = 4, vocabulary: int = 11) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator)
    bias = torch.randn(vocabulary, generator=generator)
    return hidden, weight, bias, torch.randint(3, vocabulary, (rows,), generator=generator)


def test_by_hand() -> None:
    ids = torch.tensor([2])
    assert_matches(token_logprobs(LOGITS, ids), [math.log(4 / 8)])
    # Temperature 1/2 squares the odds 1 : 3 : 4.
    assert_matches(token_logprobs(LOGITS, ids, temperature=0.5), [math.log(16 / 26)])
    # Without the token 1 the odds are 1 : 4.
    assert_matches(token_logprobs(LOGITS, ids, suppressed_ids=torch.tensor([1])), [math.log(4 / 5)])


def test_projection_by_hand() -> None:
    # Logits of the first row: 2·1 + 0 and 2·0 + log 3, odds e² : 3; of the second 0 and log 3.
    hidden, weight, bias = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, math.log(3)])
    answer = projected_token_logprobs(hidden, weight, bias, torch.tensor([0, 1]))
    assert_matches(answer, [math.log(math.exp(2) / (math.exp(2) + 3)), math.log(3 / 4)])
    # Temperature 1/2 squares the odds, and without token 1 token 0 is certain.
    assert_matches(projected_token_logprobs(hidden, weight, bias, torch.tensor([1, 1]), 0.5)[1:], [math.log(9 / 10)])
    alone = projected_token_logprobs(hidden, weight, None, torch.tensor([0, 0]), suppressed_ids=torch.tensor([1]))
    assert alone.tolist() == [0.0, 0.0]


def test_sampling_logits_leaves_its_input_alone() -> None:
    logits = LOGITS.clone()
    answer = sampling_logits(logits, 2.0, torch.tensor([0]))
    assert torch.equal(logits, LOGITS)
    assert answer[0, 0] == -math.inf
    assert_matches(answer[0, 1:], [math.log(3.0) / 2, math.log(4.0) / 2])
    assert torch.equal(sampling_logits(logits, 1.0, torch.tensor([], dtype=torch.long)), LOGITS)


@given(seed=SEEDS, temperature=TEMPERATURES, suppressed=st.sets(st.integers(0, 10), max_size=10))
@few
def test_suppressed_tokens_have_no_probability_and_the_rest_share_all_of_it(
    seed: int, temperature: float, suppressed: set[int]
) -> None:
    hidden, weight, bias, _ = example(seed)
    logits = hidden @ weight.T + bias
    ids = torch.tensor(sorted(suppressed), dtype=torch.long)
    sampled = sampling_logits(logits, temperature, ids).softmax(dim=-1)
    every = torch.stack(
        [token_logprobs(logits, torch.full((9,), v), temperature, ids).exp() for v in range(11)], dim=-1
    )
    torch.testing.assert_close(every, sampled, rtol=1e-5, atol=1e-7)
    assert (every[:, ids] == 0).all()
    assert_matches(every.sum(dim=-1), [1.0] * 9)
    assert_matches(every, [reference.probabilities(row, temperature, suppressed) for row in logits.tolist()])


@given(seed=SEEDS, temperature=TEMPERATURES)
@few
def test_temperature_divides_the_logits(seed: int, temperature: float) -> None:
    hidden, weight, _, ids = example(seed)
    logits = hidden @ weight.T
    torch.testing.assert_close(
        token_logprobs(logits, ids, temperature), token_logprobs(logits / temperature, ids), rtol=1e-5, atol=1e-6
    )


def test_large_logits_neither_overflow_nor_round_the_answer_away() -> None:
    assert_matches(token_logprobs(torch.tensor([[1e4, 1e4]]), torch.tensor([0])), [math.log(0.5)])
    # A confident token: log(1 / (1 + e^−12)) = −6.14e-6, which is less than an ulp of its logit; an ulp of 1 is left.
    answer = token_logprobs(torch.tensor([[100.0, 88.0]]), torch.tensor([0]))
    assert answer.item() == pytest.approx(-6.1442e-6, abs=1.2e-7)


def test_a_suppressed_token_that_is_scored_has_no_probability_and_spoils_no_gradient() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    both = torch.stack([token_logprobs(logits, torch.tensor([i]), 1.0, torch.tensor([0])) for i in (0, 2)])
    assert both[0].item() == -math.inf
    both[1].sum().backward()
    assert logits.grad[0, 0] == 0
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_reduced_in_float32() -> None:
    logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = torch.tensor([0, 1, 2])
    answer = token_logprobs(logits, ids, 0.7)
    assert answer.dtype == torch.float32
    expected = [math.log(reference.probabilities(row, 0.7)[i]) for row, i in zip(logits.tolist(), ids, strict=True)]
    assert_matches(answer, expected)


def test_any_leading_shape() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    answer = token_logprobs(logits, ids)
    assert answer.shape == (2, 3)
    torch.testing.assert_close(answer[1, 2], logits[1, 2].log_softmax(-1)[0], rtol=1e-5, atol=1e-6)
    suppressed = sampling_logits(logits, 1.0, torch.tensor([4]))
    assert (suppressed[..., 4] == -math.inf).all()
    assert torch.equal(suppressed[..., :4], logits[..., :4])


@given(
    seed=SEEDS,
    chunk_tokens=st.integers(1, 12),
    temperature=TEMPERATURES,
    with_bias=st.booleans(),
    suppressed=st.booleans(),
)
@few
def test_projection_in_chunks_equals_the_full_softmax_with_its_gradients(
    seed: int, chunk_tokens: int, temperature: float, with_bias: bool, suppressed: bool
) -> None:
    *parameters, ids = example(seed)
    upstream = torch.linspace(-1, 2, len(ids), dtype=torch.float64)
    absent = torch.tensor([0, 2]) if suppressed else None

    hidden, weight, bias = (x.double().requires_grad_() for x in parameters)
    logits = (hidden @ weight.T + (bias if with_bias else 0)) / temperature
    if suppressed:
        logits = torch.cat([logits[:, [1]], logits[:, 3:]], dim=-1)
    expected = logits.log_softmax(dim=-1)[torch.arange(len(ids)), ids - 2 if suppressed else ids]
    expected.backward(upstream)

    own = [x.clone().requires_grad_() for x in parameters]
    answer = projected_token_logprobs(
        own[0], own[1], own[2] if with_bias else None, ids, temperature, absent, chunk_tokens=chunk_tokens
    )
    answer.backward(upstream.float())

    torch.testing.assert_close(answer.double(), expected, rtol=1e-5, atol=1e-5)
    for got, wanted in zip(own, (hidden, weight, bias), strict=True):
        if wanted.grad is None:
            assert got.grad is None
        else:
            torch.testing.assert_close(got.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5)


@given(seed=SEEDS)
@few
def test_projection_follows_the_order_of_its_rows(seed: int) -> None:
    hidden, weight, bias, ids = example(seed)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    straight = projected_token_logprobs(hidden, weight, bias, ids, chunk_tokens=4)
    plain = (hidden @ weight.T + bias).log_softmax(dim=-1)[torch.arange(len(ids)), ids]
    torch.testing.assert_close(straight, plain, rtol=1e-5, atol=1e-5)  # the default temperature is 1
    torch.testing.assert_close(
        projected_token_logprobs(hidden[order], weight, bias, ids[order], chunk_tokens=4),
        straight[order],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("with_gradient", [True, False])
def test_projection_never_holds_more_than_a_chunk(with_gradient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, ids = example(0)
    linear, projected_rows = torch.nn.functional.linear, []

    def spy(rows: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        projected_rows.append(len(rows))
        return linear(rows, *others)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    saved_elements = []

    def save(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
            saved_elements.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(save, lambda x: x):
        answer = projected_token_logprobs(hidden.requires_grad_(with_gradient), weight, bias, ids, chunk_tokens=4)
    assert projected_rows == [4, 4, 1]
    if with_gradient:
        assert max(saved_elements, default=0) <= hidden.numel()  # of 4 · 11 logits none are kept for later
        assert len(weight) in saved_elements, "but those of the last chunk are"
        answer.sum().backward()
        assert projected_rows[3:] == [4, 4], "and are not projected again"


def test_a_chunk_is_1024_tokens_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def spy(logits: torch.Tensor, ids: torch.Tensor, *others: object) -> torch.Tensor:
        sizes.append(len(ids))
        return token_logprobs(logits, ids, *others)

    monkeypatch.setattr(logprobs_module, "token_logprobs", spy)
    hidden = torch.zeros(1030, 1)
    assert projected_token_logprobs(hidden, torch.ones(2, 1), None, torch.zeros(1030, dtype=torch.long)).shape == (
        1030,
    )
    assert sizes == [1024, 6]


def test_what_needs_no_gradient_is_not_checkpointed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs_module, "checkpoint", None)
    hidden, weight, bias, ids = example(0)
    expected = (hidden @ weight.T + bias).log_softmax(dim=-1)[torch.arange(len(ids)), ids]
    torch.testing.assert_close(projected_token_logprobs(hidden, weight, bias, ids), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        answer = projected_token_logprobs(hidden.requires_grad_(), weight, bias, ids)
    torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)


def test_gradients_can_be_asked_for_without_being_accumulated() -> None:
    """`torch.autograd.grad` refuses the reentrant kind of checkpoint."""
    hidden, weight, bias, ids = example(0)
    loss = projected_token_logprobs(hidden.requires_grad_(), weight.requires_grad_(), bias, ids).sum()
    gradients = torch.autograd.grad(loss, [hidden, weight])
    plain = (hidden @ weight.T + bias).log_softmax(dim=-1)[torch.arange(len(ids)), ids].sum()
    torch.testing.assert_close(gradients, torch.autograd.grad(plain, [hidden, weight]), rtol=1e-4, atol=1e-5)
    assert hidden.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_refuses_a_temperature_that_is_not_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        sampling_logits(LOGITS, temperature)


def test_refuses_ids_that_do_not_match(as_in_production: None) -> None:
    with pytest.raises(ValueError, match=r"^token_logprobs: logits \(2, 3, 5\) and token_ids \(2, 1\) do not match$"):
        token_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"^projected_token_logprobs: hidden \(4, 2\) and token_ids \(3,\) differ in "):
        projected_token_logprobs(torch.zeros(4, 2), torch.zeros(5, 2), None, torch.zeros(3, dtype=torch.long))


def test_a_cap_bends_the_logits_before_the_temperature():
    """c · tanh(x / c), by hand for two tokens."""
    hidden, weight = torch.tensor([[1.0]]), torch.tensor([[3.0], [-1.0]])
    capped = [2 * math.tanh(3.0 / 2) / 0.5, 2 * math.tanh(-1.0 / 2) / 0.5]
    expected = capped[0] - math.log(sum(math.exp(x) for x in capped))
    got = projected_token_logprobs(hidden, weight, None, torch.tensor([0]), temperature=0.5, logit_cap=2.0)
    assert_matches(got, [expected])
