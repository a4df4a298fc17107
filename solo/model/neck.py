"""torchvision's FeaturePyramidNetwork, delivering the five maps that the head works on.

The head wants P2 at half its size; the largest map of the network, P2 itself, is never built.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from solo.model.resampling import halved_convolution


class Pyramid(FeaturePyramidNetwork):
    """Feature pyramid P2..P6 (256 channels, biases, no norm, nearest top-down), resized for the head.

    Args:
        in_channels: channels of C2..C5.
        out_channels: channels of every P.
    """

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__(list(in_channels), out_channels, extra_blocks=LastLevelMaxPool())

    def initialize(self) -> None:
        """Xavier-uniform weights and zero biases (mmdetection FPN init_cfg)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def levels(self, stages: list[Tensor]) -> list[Tensor]:
        """P2..P6 at their own strides, by torchvision's forward: (B, 256, H / s, W / s), s = 4, 8, 16, 32, 64."""
        return list(super().forward(OrderedDict((str(i), stage) for i, stage in enumerate(stages))).values())

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """The head's five maps at strides 8, 8, 16, 32, 32.

        P2 is halved and P6 brought to P5's size, both bilinearly (mmdetection SOLOHead.resize_feats).

        Args:
            stages: C2..C5, (B, C_i, H / s, W / s), s = 4, 8, 16, 32.

        Returns:
            Five tensors (B, out_channels, H / s, W / s), s = 8, 8, 16, 32, 32.
        """
        inner = [block(stage) for block, stage in zip(self.inner_blocks, stages, strict=True)]
        for i in (2, 1, 0):
            blocks = inner[i].unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (B, C, h, 2, w, 2) of the finer map
            blocks += inner[i + 1][:, :, :, None, :, None]
        p2 = halved_convolution(inner[0], self.layer_blocks[0][0])
        p3, p4, p5 = (self.layer_blocks[i](inner[i]) for i in (1, 2, 3))
        p6 = F.interpolate(F.max_pool2d(p5, 1, stride=2), size=p5.shape[-2:], mode="bilinear")
        return [p2, p3, p4, p5, p6]
