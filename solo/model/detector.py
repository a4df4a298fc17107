"""The whole network, from image bytes to category grids and mask features."""

import torch
from torch import Tensor, nn

from solo import config
from solo.model.backbone import Backbone
from solo.model.head import GridHead, build_head
from solo.model.neck import Pyramid

MEAN = (123.675, 116.28, 103.53)  # R, G, B of ImageNet on 0..255 (reference: data_preprocessor)
STD = (58.395, 57.12, 57.375)
DIVISOR = 32  # padded sizes are multiples of the coarsest backbone stride


class Detector(nn.Module):
    """Backbone, pyramid and head of one configuration."""

    mean: Tensor
    std: Tensor
    head: GridHead

    def __init__(self, backbone: Backbone, neck: Pyramid, head: GridHead) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def normalize(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Decoded pixels to the network's input.

        Args:
            images: (B, H, W, 3) uint8, B G R as OpenCV decodes; anything beyond an image's own size is ignored.
            sizes: (B, 2) int64, height and width of each image inside H x W.

        Returns:
            (B, 3, H, W) float32, R G B, (x - mean) / std, zero beyond each image's size.
        """
        pixels = images.permute(0, 3, 1, 2).flip(1)  # (B, 3, H, W) RGB
        rows = torch.arange(images.shape[1], device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(images.shape[2], device=images.device) < sizes[:, 1:]  # (B, W)
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return ((pixels.float() - self.mean) / self.std) * inside

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalized images to the head's five maps (B, C, H / s, W / s), s = 8, 8, 16, 32, 32."""
        return self.neck(self.backbone(images))


def build_detector(backbone: config.Backbone, head: config.Head) -> Detector:
    """A freshly initialized detector: ResNet as torchvision initializes it, neck and head as the reference does."""
    body = Backbone(backbone.depth, backbone.width, backbone.norm, backbone.frozen_stages)
    neck = Pyramid(body.channels, backbone.fpn_channels)
    detector = Detector(body, neck, build_head(head, backbone.fpn_channels))
    neck.initialize()
    detector.head.initialize()
    return detector
