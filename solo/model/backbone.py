"""torchvision's ResNet as the reference uses it: stages C2..C5, statistics of batch norm frozen."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class FrozenStatisticsBatchNorm(nn.BatchNorm2d):
    """Batch norm that always uses its stored statistics; its affine stays trainable and is decayed.

    mmdetection's `norm_eval=True`; the difference to torchvision's FrozenBatchNorm2d is the trainable affine.
    """

    def train(self, mode: bool = True) -> "FrozenStatisticsBatchNorm":
        """Stay in evaluation mode whatever `mode` says."""
        return super().train(False)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "frozen_bn": FrozenStatisticsBatchNorm,
    "bn": nn.BatchNorm2d,
    "gn": _group_norm,
}


class Backbone(ResNet):
    """ResNet without its classifier.

    Args:
        depth: 18, 34, 50 or 101.
        width: multiplier of all channels (1.0: torchvision's).
        norm: a key of `NORMS`.
        frozen_stages: the stem and stages 1..frozen_stages get no gradient; -1 freezes nothing.
    """

    def __init__(self, depth: int, width: float, norm: str, frozen_stages: int) -> None:
        self._width = width
        block, layers = BLOCKS[depth]
        super().__init__(block, layers, norm_layer=NORMS[norm])
        del self.fc, self.avgpool
        if width != 1:
            stem = int(64 * width)
            self.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = NORMS[norm](stem)
        self.channels = tuple(int(planes * width) * block.expansion for planes in (64, 128, 256, 512))
        self._freeze(frozen_stages)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = int(64 * self._width)
        return super()._make_layer(block, int(planes * self._width), *args, **kwargs)

    def _freeze(self, stages: int) -> None:
        frozen: list[nn.Module] = [self.conv1, self.bn1] if stages >= 0 else []
        frozen += [self.layer1, self.layer2, self.layer3, self.layer4][: max(stages, 0)]
        for module in frozen:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Stages C2..C5.

        Args:
            images: (B, 3, H, W) float, normalized; H and W multiples of 32.

        Returns:
            Four tensors (B, channels[i], H / s, W / s), s = 4, 8, 16, 32.
        """
        x = self.maxpool(F.relu(normed(images, self.conv1, self.bn1), inplace=True))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = residual(block, x)
            stages.append(x)
        return stages


def residual(block: Any, x: Tensor) -> Tensor:
    """torchvision's BasicBlock or Bottleneck, (B, C, h, w) to (B, D, h', w'), with as few maps alive as possible."""
    shortcut = x if block.downsample is None else normed(x, *block.downsample)
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    layers += [(block.conv3, block.bn3)] if isinstance(block, Bottleneck) else []
    for convolution, norm in layers[:-1]:
        x = F.relu(normed(x, convolution, norm), inplace=True)
    return F.relu(normed(x, *layers[-1]).add_(shortcut), inplace=True)


def normed(x: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """norm(convolution(x)).

    Frozen statistics make batch norm a fixed scale and shift of each channel. They go into the kernel, so that no map
    before the norm is kept for the backward pass; kernel and affine still get the gradients of two separate layers.
    """
    if not isinstance(norm, FrozenStatisticsBatchNorm):
        return norm(convolution(x))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    kernel = convolution.weight * scale[:, None, None, None]
    shift = norm.bias - norm.running_mean * scale
    return F.conv2d(x, kernel, shift, convolution.stride, convolution.padding)
