"""The SOLO heads: a category for every grid cell, and a mask for every cell that is asked for.

Masks are computed in two steps. `mask_features` runs the mask branch up to its last hidden map; `mask_maps` applies
the last convolution for the chosen cells only. The reference computes all 3,872 masks of an image and uses a few
dozen (mmdetection SOLOHead.forward).
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solo import config
from solo.model.resampling import doubled_convolution

PRIOR = 0.01  # probability that an untrained cell is positive (paper of focal loss, sec. 4.1)
MaskFeatures = tuple[Tensor, ...]


class MaskMaps(NamedTuple):
    """One factor of the masks of n cells: mask = product over factors of sigmoid(logits)[cells]."""

    logits: Tensor  # (u, h, w) distinct maps
    cells: Tensor  # (n,) int64, the map of each cell


class ConvNorm(nn.Module):
    """3x3 convolution without bias, GroupNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor, constant: Tensor | None = None) -> Tensor:
        """(B, C, h, w) to (B, D, h, w); `constant` (1, E, h, w) are further input channels, the same for all images.

        Their share is computed once and added, so that no map is copied to lay them beside the others.
        """
        if constant is None:
            x = self.conv(x)
        else:
            weight, rest = self.conv.weight.split((x.shape[1], constant.shape[1]), 1)
            x = F.conv2d(x, weight, padding=1).add_(F.conv2d(constant, rest, padding=1))
        return F.relu(self.norm(x), inplace=True)


class MaskBranch(nn.Module):
    """Stacked convolutions; the first ones also see pixel coordinates.

    Args:
        head: the head's configuration.
        in_channels: channels of the pyramid.
        axes: which coordinates are appended, a slice of (x, y).
    """

    def __init__(self, head: config.Head, in_channels: int, axes: slice) -> None:
        super().__init__()
        self.axes, self.coordinate_layers = axes, head.coordinate_layers
        extra = len(range(2)[axes])
        self.convs = nn.ModuleList(
            ConvNorm(
                (in_channels if i == 0 else head.feat_channels) + extra * (i < head.coordinate_layers),
                head.feat_channels,
                head.norm_groups,
            )
            for i in range(head.stacked_convs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, feat_channels, h, w)."""
        for i, conv in enumerate(self.convs):
            x = conv(x, coordinates(x)[:, self.axes] if i < self.coordinate_layers else None)
        return x


class GridHead(nn.Module, ABC):
    """What the three heads share: the category branch and the mask branches' hidden layers.

    Args:
        head: the head's configuration.
        in_channels: channels of the pyramid.
        mask_axes: one slice of (x, y) per mask branch.
    """

    by_lines = False  # whether masks are products of columns' and rows' maps

    def __init__(self, head: config.Head, in_channels: int, mask_axes: tuple[slice, ...]) -> None:
        super().__init__()
        self.grid_sizes, self.init_std = head.grid_sizes, head.init_std
        self.category_branch = nn.ModuleList(
            ConvNorm(in_channels if i == 0 else head.feat_channels, head.feat_channels, head.norm_groups)
            for i in range(head.stacked_convs)
        )
        self.category_out = nn.Conv2d(head.feat_channels, head.num_classes, 3, padding=1)
        self.mask_branches = nn.ModuleList(MaskBranch(head, in_channels, axes) for axes in mask_axes)

    def initialize(self) -> None:
        """Convolutions N(0, init_std), biases of every output at the prior (mmdetection SOLOHead init_cfg)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=self.init_std)
                if module.bias is not None:
                    nn.init.constant_(module.bias, -math.log((1 - PRIOR) / PRIOR))

    def category_logits(self, features: list[Tensor]) -> list[Tensor]:
        """Five maps (B, C, h, w) to five grids (B, num_classes, S, S)."""
        grids = []
        for feature, size in zip(features, self.grid_sizes, strict=True):
            x = F.interpolate(feature, size=(size, size), mode="bilinear")
            for conv in self.category_branch:
                x = conv(x)
            grids.append(self.category_out(x))
        return grids

    def mask_parameters(self) -> list[Tensor]:
        """The trainable parameters that masks depend on."""
        return [p for name, p in self.named_parameters() if name.startswith("mask_") and p.requires_grad]

    def mask_features(self, feature: Tensor) -> MaskFeatures:
        """One level's map (B, C, h, w) to the last hidden map of each mask branch, (B, F, h, w)."""
        return tuple(branch(feature) for branch in self.mask_branches)

    @abstractmethod
    def mask_maps(self, level: int, features: MaskFeatures, cells: Tensor) -> list[MaskMaps]:
        """Mask logits of the chosen cells of one image at twice the level's size.

        Args:
            level: 0..4.
            features: of one image, each (F, h, w).
            cells: (n,) int64, row-major cell numbers y * S + x; on the features' device.

        Returns:
            Factors with logits (u, 2h, 2w) whose product of sigmoids is the mask of each cell.
        """


class SoloHead(GridHead):
    """One mask channel per cell (paper sec. 3.2)."""

    def __init__(self, head: config.Head, in_channels: int) -> None:
        super().__init__(head, in_channels, (slice(0, 2),))
        self.mask_out = nn.ModuleList(nn.Conv2d(head.feat_channels, size**2, 1) for size in head.grid_sizes)

    def mask_maps(self, level: int, features: MaskFeatures, cells: Tensor) -> list[MaskMaps]:
        """As GridHead.mask_maps. A 1x1 convolution commutes with bilinear resizing: it goes first, on a quarter
        of the pixels and only the chosen channels (the reference resizes first)."""
        out = self.mask_out.get_submodule(str(level))
        weight, bias = out.get_parameter("weight")[cells], out.get_parameter("bias")[cells]
        logits = F.conv2d(features[0][None], weight, bias)  # (1, n, h, w)
        logits = F.interpolate(logits, scale_factor=2, mode="bilinear")[0]  # (n, 2h, 2w)
        return [MaskMaps(logits, torch.arange(len(cells), device=cells.device))]


class DecoupledHead(GridHead):
    """A mask is the product of a column's map and a row's map (paper sec. 3.4).

    Args:
        head: the head's configuration.
        in_channels: channels of the pyramid.
        shared: one mask branch for both maps (Decoupled SOLO Light), else one each.
    """

    by_lines = True

    def __init__(self, head: config.Head, in_channels: int, shared: bool) -> None:
        super().__init__(head, in_channels, (slice(0, 2),) if shared else (slice(0, 1), slice(1, 2)))
        self.mask_out_x, self.mask_out_y = (
            nn.ModuleList(nn.Conv2d(head.feat_channels, size, 3, padding=1) for size in head.grid_sizes)
            for _ in range(2)
        )

    def mask_maps(self, level: int, features: MaskFeatures, cells: Tensor) -> list[MaskMaps]:
        """As GridHead.mask_maps; each column's and each row's map is computed once, however many cells use it."""
        size = self.grid_sizes[level]
        factors = []
        for outs, feature, lines in (
            (self.mask_out_x, features[0], cells % size),
            (self.mask_out_y, features[-1], cells // size),
        ):
            out = outs.get_submodule(str(level))
            weight, bias = out.get_parameter("weight"), out.get_parameter("bias")
            used, index = torch.unique(lines, return_inverse=True)
            factors.append(MaskMaps(doubled_convolution(feature[None], weight[used], bias[used])[0], index))
        return factors


def build_head(head: config.Head, in_channels: int) -> GridHead:
    """The head that `head.kind` names."""
    kinds = {
        "solo": lambda: SoloHead(head, in_channels),
        "decoupled_solo": lambda: DecoupledHead(head, in_channels, shared=False),
        "decoupled_solo_light": lambda: DecoupledHead(head, in_channels, shared=True),
    }
    return kinds[head.kind]()


def coordinates(x: Tensor) -> Tensor:
    """Pixel coordinates in [-1, 1] of a map (B, C, h, w): (1, 2, h, w), x then y (paper sec. 3.2, CoordConv)."""
    height, width = x.shape[2:]
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])[None]
