"""One convolution instead of a resize and a convolution: the same values and gradients, borders included."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from solo.model.backbone import FrozenStatisticsBatchNorm, normed
from solo.model.resampling import doubled_convolution, halved_convolution


def assert_same(found, expected, leaves):
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad((value * weight).sum(), leaves) for value in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (7, 5), (16, 21)])
def test_doubling_then_convolving(size):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 6, *size), torch.randn(5, 6, 3, 3), torch.randn(5)
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    doubled = F.interpolate(leaves[0], scale_factor=2, mode="bilinear")
    assert_same(doubled_convolution(*leaves), F.conv2d(doubled, *leaves[1:], padding=1), leaves)


@pytest.mark.parametrize("size", [(2, 2), (6, 10), (7, 9)])
def test_convolving_then_halving(size):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 5, 3, padding=1).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    halved = F.interpolate(layer(x), scale_factor=0.5, mode="bilinear")
    assert_same(halved_convolution(x, layer), halved, [x, layer.weight, layer.bias])


def test_frozen_statistics_go_into_the_kernel():
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False).double(), FrozenStatisticsBatchNorm(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64, requires_grad=True)
    assert_same(normed(x, layer, norm), norm.eval()(layer(x)), [x, layer.weight, norm.weight, norm.bias])
