import copy

import pytest
import torch
from torch import nn

from mhc_vision.kernels.weight_gradients import held_weight_gradients, take_weight_gradients
from mhc_vision.training.pipeline.split_linear import SplitLinear, split_linears


@pytest.mark.parametrize("autocast", [False, True])
def test_both_halves_are_the_whole_gradient(autocast):
    whole = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False))
    split, x = copy.deepcopy(whole), torch.randn(2, 3, 6, requires_grad=True)
    split_linears(split)
    assert [type(layer) for layer in split] == [SplitLinear, nn.GELU, SplitLinear]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = whole(x)
        with held_weight_gradients():
            output = split(x)
    assert torch.equal(output, expected)
    (of_x,) = torch.autograd.grad(expected.sum(), x, retain_graph=True)
    expected.sum().backward()
    x.grad = None
    output.sum().backward()
    assert torch.equal(x.grad, of_x)
    assert all(parameter.grad is None for parameter in split.parameters())
    for _ in range(2):
        take_weight_gradients()()
        for mine, theirs in zip(split.parameters(), whole.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)


def test_outside_it_is_a_linear_layer():
    layer, x = nn.Linear(6, 8), torch.randn(3, 6)
    expected = layer(x)
    split_linears(layer)
    assert torch.equal(layer(x), expected)
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is not None
    take_weight_gradients()()
