"""The detector applied to a batch: categories first, then masks where a category was found."""

import torch
from torch import Tensor

from solo.config import Test
from solo.model.detector import Detector
from solo.model.head import GridHead
from solo.postprocess import Candidates, Instances, MaskSource, find_candidates, point_nms, select


@torch.no_grad()
def detect(detector: Detector, images: Tensor, test: Test, strides: tuple[int, ...]) -> list[Instances]:
    """The instances of each image.

    Args:
        detector: in evaluation mode; `solo.model.folding.folded` makes one that is faster.
        images: (B, 3, H, W) normalized and padded.
        test: thresholds.
        strides: of the five levels.
    """
    features = detector.features(images)
    grids = [point_nms(logits.float().sigmoid()) for logits in detector.head.category_logits(features)]
    candidates = [find_candidates([grid[i] for grid in grids], test) for i in range(len(images))]
    sources = mask_sources(detector.head, features, candidates, (images.shape[2] // 4, images.shape[3] // 4))
    return [select(found, source, strides, test) for found, source in zip(candidates, sources, strict=True)]


def mask_sources(
    head: GridHead, features: list[Tensor], candidates: list[Candidates], size: tuple[int, int]
) -> list[MaskSource]:
    """What each image's masks are made from; the mask branches run only where a candidate is.

    Args:
        head: the detector's head.
        features: five maps (B, C, h, w).
        candidates: of each image.
        size: height and width of the stride-4 grid.
    """
    sources = [MaskSource(head, size) for _ in candidates]
    present = [torch.bincount(found.levels, minlength=len(features)).tolist() for found in candidates]
    for level, feature in enumerate(features):
        images = [image for image, counts in enumerate(present) if counts[level]]
        if not images:
            continue
        part = feature if len(images) == len(feature) else torch.cat([feature[i : i + 1] for i in images])
        hidden = head.mask_features(part)
        for row, image in enumerate(images):
            cells = candidates[image].cells[candidates[image].levels == level]
            sources[image].add(level, tuple(h[row] for h in hidden), cells)
    return sources
