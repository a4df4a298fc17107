"""Category and mask losses of one micro-batch (paper sec. 3.3.2).

The sums are the reference's (mmdetection SOLOHead.loss_by_feat): masks are averaged over the positive cells of this
process, categories over their number plus one; no count is shared between processes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from solo.config import Loss
from solo.gradients import Scaling, sum_of_terms, unscaled
from solo.model.head import GridHead, MaskMaps
from solo.targets import Targets

EPSILON = 1e-3  # of each squared sum in the dice denominator (mmdetection DiceLoss)


def detection_losses(
    head: GridHead, features: list[Tensor], targets: Targets, loss: Loss, scaling: Scaling = unscaled
) -> dict[str, Tensor]:
    """The two weighted losses of a batch.

    Args:
        head: computes the masks of the positive cells, and only those.
        features: the head's five maps (B, C, h, w).
        targets: on the same device.
        loss: kinds and weights.
        scaling: as in `solo.gradients.sum_of_terms`.

    Returns:
        loss_mask and loss_category, float32 scalars. Without an object loss_mask is 0 and still has a gradient.
    """
    positives = sum(map(sum, targets.counts))
    # first, so that the category branch's maps are not kept while the mask branch's are
    mask = mask_loss_sum(head, features, targets, loss, scaling) / max(positives, 1)
    logits = head.category_logits(features)
    classes = logits[0].shape[1]
    flat = torch.cat([grid.permute(0, 2, 3, 1).reshape(-1, classes) for grid in logits])  # (cells, C)
    category = focal_loss(flat.float(), targets.labels, loss.focal_gamma, loss.focal_alpha).sum() / (positives + 1)
    return {"loss_mask": loss.mask_weight * mask, "loss_category": loss.category_weight * category}


def mask_loss_sum(
    head: GridHead, features: list[Tensor], targets: Targets, loss: Loss, scaling: Scaling = unscaled
) -> Tensor:
    """The unweighted mask loss summed over all positive cells: a float32 scalar.

    The mask branch runs on the levels and images that hold an object; what it would give elsewhere has no gradient.
    Arguments as in `detection_losses`.
    """

    def per_level(features: list[Tensor]) -> Iterator[Tensor]:
        for level, feature in enumerate(features):
            counts = targets.counts[level]
            present = [image for image, count in enumerate(counts) if count]
            if not present:
                continue
            if len(present) < len(counts):
                feature = torch.cat([feature[i : i + 1] for i in present])
            hidden = zip(*(maps.unbind() for maps in head.mask_features(feature)), strict=True)
            sizes = [counts[image] for image in present]
            parts = zip(targets.cells[level].split(sizes), targets.level_masks(level).split(sizes), strict=True)
            yield torch.stack([
                MASK_LOSSES[loss.mask](head.mask_maps(level, maps, cells), target, loss).sum()
                for maps, (cells, target) in zip(hidden, parts, strict=True)
            ]).sum()  # fmt: skip

    return sum_of_terms(per_level, features, head.mask_parameters(), scaling)


def probabilities(factors: list[MaskMaps]) -> Tensor:
    """The product of the factors' sigmoids: (n, h, w) float32 in [0, 1]."""
    maps = [logits.float().sigmoid()[index] for logits, index in factors]
    return maps[0] if len(maps) == 1 else maps[0] * maps[1]


def dice_loss(factors: list[MaskMaps], target: Tensor, loss: Loss) -> Tensor:
    """1 - 2 |p t| / (|p|^2 + |t|^2) with EPSILON on each sum (paper eq. 4-5): (n,)."""
    p = probabilities(factors).flatten(1)
    t = target.flatten(1)
    overlap = (p * t).sum(1)
    return 1 - 2 * overlap / ((p * p).sum(1) + EPSILON + t.sum(1) + EPSILON)


def focal_mask_loss(factors: list[MaskMaps], target: Tensor, loss: Loss) -> Tensor:
    """Binary focal loss per pixel, averaged over the mask (paper table 7): (n,)."""
    t = target.flatten(1).float()
    p = probabilities(factors).flatten(1)
    cross_entropy = F.binary_cross_entropy(p, t, reduction="none")
    right = p * t + (1 - p) * (1 - t)
    alpha = loss.focal_alpha * t + (1 - loss.focal_alpha) * (1 - t)
    return (alpha * (1 - right) ** loss.focal_gamma * cross_entropy).mean(1)


def bce_loss(factors: list[MaskMaps], target: Tensor, loss: Loss) -> Tensor:
    """Binary cross-entropy per pixel, averaged over the mask (paper table 7): (n,)."""
    p = probabilities(factors).flatten(1)
    return F.binary_cross_entropy(p, target.flatten(1).float(), reduction="none").mean(1)


MASK_LOSSES = {"dice": dice_loss, "focal": focal_mask_loss, "bce": bce_loss}


def focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002, eq. 5), not reduced.

    Args:
        logits: (n, C) float32.
        labels: (n,) int64; C is background.
        gamma: focusing exponent.
        alpha: weight of positives, 1 - alpha of negatives.

    Returns:
        (n, C).
    """
    t = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    p = logits.sigmoid()
    wrong = (1 - p) * t + p * (1 - t)
    weight = (alpha * t + (1 - alpha) * (1 - t)) * wrong.pow(gamma)
    return F.binary_cross_entropy_with_logits(logits, t, reduction="none") * weight
