import pytest
import torch

from fisao_pipeline.models.value_head import ValueHead


@pytest.mark.parametrize("width", [None, 16])
def test_it_starts_at_zero(width):
    assert torch.equal(ValueHead(8, width)(torch.randn(5, 8)), torch.zeros(5))


def test_a_hidden_layer_learns_what_a_linear_head_cannot():
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    either = torch.tensor([0.0, 1.0, 1.0, 0.0])
    losses = {}
    for width in (None, 16):
        head = ValueHead(2, width)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss = (head(corners) - either).pow(2).mean()
            loss.backward()
            optimizer.step()
        losses[width] = loss.item()
    assert losses[16] < 0.01
    assert losses[None] > 0.2


def test_without_a_hidden_layer_it_is_linear_in_the_hidden_state():
    head = ValueHead(2)
    head.linear.weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    head.linear.bias.data.fill_(0.5)
    torch.testing.assert_close(head(torch.tensor([[1.0, 3.0], [0.0, 0.0]])), torch.tensor([-0.5, 0.5]))


def test_its_loss_leaves_the_policy_alone():
    head, hidden = ValueHead(3), torch.ones(2, 3, requires_grad=True)
    (head(hidden) - 1).pow(2).sum().backward()
    assert hidden.grad is None
    assert head.linear.weight.grad.abs().sum() > 0


def test_half_precision_states_give_float32_values():
    assert ValueHead(4, 8)(torch.randn(2, 4, dtype=torch.bfloat16)).dtype == torch.float32
