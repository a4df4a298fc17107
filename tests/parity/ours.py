"""Our side of every comparison, through the product's own modules, and the transfer of weights from the peer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from solo import convert
from solo.batches import Collate, TrainingBatch
from solo.cli import main
from solo.config import Config
from solo.dataset import TrainingSample
from solo.layers import load, with_classes
from solo.losses import detection_losses
from solo.model.detector import Detector, build_detector
from solo.model.names import from_reference
from solo.transforms import MaskResizer
from tests.golden import fill
from tests.regions import region_of

Truth = tuple[np.ndarray, np.ndarray, np.ndarray]  # masks (n, h, w) uint8, boxes (n, 4) float32, labels (n,) int64
HERE = ("--workers", "0", "--device", "cpu", "--threads", "2")  # options of `solo predict` within a test


def solo(*arguments: object) -> None:
    """Run a command of `solo`; it must succeed."""
    status = main([str(argument) for argument in arguments])
    assert status == 0, f"solo {arguments[0]} ended with {status}"


def zoo_config(model: str, classes: int = 80) -> Config:
    """The complete configuration of a zoo model."""
    return with_classes(load(convert.ZOO_FILES / f"{model}.yaml"), classes).config


def same_weights(peer: Any, model: str, seed: int, classes: int = 80) -> tuple[Detector, Config]:
    """Fill the peer's tensors from their names and `seed`, and convert them into a detector of ours."""
    config = zoo_config(model, classes)
    fill.fill(peer.state(), seed)
    detector = build_detector(config.backbone, config.head)
    copied = convert.transfer(peer.state(), detector, Path(f"{model}.pth"))
    assert copied == len(peer.state())
    return detector, config


def training_batch(images: list[np.ndarray], truths: list[Truth], config: Config) -> TrainingBatch:
    """Images with ready-made bitmaps as a batch, by the collation of the product's loader."""
    return Collate(config.head)(training_samples(images, truths))


def training_samples(images: list[np.ndarray], truths: list[Truth]) -> list[TrainingSample]:
    """Images with ready-made bitmaps as the product's data set would deliver them."""
    samples = []
    for i, (pixels, (masks, boxes, labels)) in enumerate(zip(images, truths, strict=True)):
        size = pixels.shape[0], pixels.shape[1]
        resize = MaskResizer(size, size, False)
        samples.append(TrainingSample(i, pixels, boxes, labels, [resize(region_of(mask)) for mask in masks]))
    return samples


def losses(detector: Detector, batch: TrainingBatch, config: Config) -> dict[str, Tensor]:
    """loss_mask and loss_category of a batch."""
    features = detector.features(detector.normalize(batch.pixels, batch.sizes))
    return detection_losses(detector.head, features, batch.targets, config.loss)


def mask_logits(detector: Detector, feature: Tensor, level: int, cells: Tensor) -> list[Tensor]:
    """Mask logits of the chosen cells of the first image, a row per cell and factor: (n, 2h, 2w) each."""
    hidden = tuple(maps[0] for maps in detector.head.mask_features(feature))
    return [logits[index] for logits, index in detector.head.mask_maps(level, hidden, cells)]


def by_reference_name(detector: Detector, names: Any) -> dict[str, nn.Parameter]:
    """Our parameters under the peer's names."""
    ours = dict(detector.named_parameters())
    return {name: ours[mine] for name in names if (mine := from_reference(name)) in ours}


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.double().square().mean().sqrt())


def relative(difference: Tensor, reference: Tensor) -> float:
    """Largest difference as a fraction of the reference's root mean square."""
    return float(difference.abs().max()) / max(rms(reference), torch.finfo(torch.float32).tiny)
