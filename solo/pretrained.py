"""torchvision's ImageNet weights for the backbone."""

from pathlib import Path

import torch

from solo.errors import UserError
from solo.model.backbone import Backbone
from solo.sources import BACKBONES


def load_backbone(backbone: Backbone, depth: int, folder: Path) -> None:
    """Load the ImageNet weights of a full-width ResNet.

    Raises:
        UserError: the file is missing or does not fit.
    """
    path = folder / BACKBONES[f"resnet{depth}"].name
    if not path.is_file():
        raise UserError(
            f"no ImageNet weights at {path}: run `solo fetch resnet{depth} --out {folder}`, or train from scratch "
            "with --set backbone.pretrained=none backbone.norm=gn backbone.frozen_stages=-1"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing, left = backbone.load_state_dict(
            {key: value for key, value in state.items() if not key.startswith("fc.")}, strict=False
        )
    except Exception as error:  # damaged files raise many kinds
        raise UserError(f"{path} does not hold the weights of a full-width ResNet-{depth}: {error}") from error
    if left or [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise UserError(f"{path} does not fit ResNet-{depth} with norm frozen_bn or bn: {(missing + left)[:3]} ...")
