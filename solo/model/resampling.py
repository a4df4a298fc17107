"""Convolutions next to a bilinear resize by two, as one convolution each.

Resizing and convolving are both linear, so their sequence is a convolution whose kernel is known beforehand. The values
are those of the two steps up to the order of summation; the larger of the two maps is never built.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Weight of the source pixels k-1, k, k+1 in the resized pixels 2k-1, 2k, 2k+1 (first) and 2k, 2k+1, 2k+2 (second).
EVEN = ((0.75, 0.25, 0.0), (0.25, 0.75, 0.0), (0.0, 0.75, 0.25))
ODD = ((0.25, 0.75, 0.0), (0.0, 0.75, 0.25), (0.0, 0.25, 0.75))


def halved_convolution(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """`interpolate(convolution(x), scale_factor=0.5, mode="bilinear")` as one 4x4 convolution of stride 2.

    Halving bilinearly is a mean over 2x2 pixels, and a mean of a convolution is a convolution: 16/36 of the arithmetic.

    Args:
        x: (B, C, 2h, 2w); an odd last row or column is left out, as interpolate leaves it.
        convolution: 3x3, stride 1, padding 1.

    Returns:
        (B, D, h, w).
    """
    kernel = convolution.weight  # (D, C, 3, 3)
    mean = sum(F.pad(kernel, (dx, 1 - dx, dy, 1 - dy)) for dy in (0, 1) for dx in (0, 1)) / 4
    assert isinstance(mean, torch.Tensor)
    return F.conv2d(x, mean, convolution.bias, stride=2, padding=1)  # (D, C, 4, 4) kernel


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`conv2d(interpolate(x, scale_factor=2, mode="bilinear"), weight, bias, padding=1)` on the small map.

    Each of the four pixels that a source pixel becomes sees 3x3 source pixels, through a kernel of its own.

    Args:
        x: (B, C, h, w).
        weight: (D, C, 3, 3).
        bias: (D,).

    Returns:
        (B, D, 2h, 2w).
    """
    phases = weight.new_tensor((EVEN, ODD))  # (phase, kernel tap, source tap)
    kernels = torch.einsum("pia,qjb,dcij->dpqcab", phases, phases, weight).flatten(0, 2)  # (4 D, C, 3, 3)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    result = F.pixel_shuffle(F.conv2d(padded, kernels, bias.repeat_interleave(4)), 2)

    # The convolution's padding is zero; what the repeated border has added is taken away again.
    top, bottom = (F.interpolate(x[:, :, i], scale_factor=2, mode="linear") for i in (0, -1))  # (B, C, 2w)
    left, right = (F.interpolate(x[..., i], scale_factor=2, mode="linear") for i in (0, -1))  # (B, C, 2h)
    for i, line in ((0, top), (-1, bottom)):
        line = F.pad(line, (1, 1), mode="replicate")  # with the corners
        result[:, :, i] -= F.conv1d(line, weight[:, :, i])
    for i, line in ((0, left), (-1, right)):
        result[..., i] -= F.conv1d(line, weight[..., i], padding=1)
    return result
