"""Matrix NMS (arXiv 2003.10152, sec. 3.3): every score decays by its overlap with better masks of its category."""

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**22  # of all masks of a group, as float32


def decayed_scores(
    masks: Tensor, labels: Tensor, scores: Tensor, areas: Tensor, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """The scores after Matrix NMS.

    The linear kernel gives 0 / 0 = NaN for identical masks of one label, as the reference's does
    (mmdetection mask_matrix_nms).

    Args:
        masks: (n, h, w) bool, sorted by descending score.
        labels: (n,) int64.
        scores: (n,) float32.
        areas: (n,) float32, pixels of each mask.
        kernel: gaussian or linear.
        sigma: of the gaussian kernel exp(-sigma * iou^2).

    Returns:
        (n,) float32.
    """
    inter = intersections(masks, labels)
    union = areas[None, :] + areas[:, None] - inter
    same = (labels[None, :] == labels[:, None]).triu(diagonal=1)
    iou = torch.where(same, inter / union, inter.new_zeros(()))  # (n, n), better candidate first
    most = iou.max(0).values[:, None]  # how much each suppressor was itself suppressed
    if kernel == "gaussian":
        decay = (torch.exp(-sigma * iou**2) / torch.exp(-sigma * most**2)).min(0).values
    else:
        decay = ((1 - iou) / (1 - most)).min(0).values
    return scores * decay


def intersections(masks: Tensor, labels: Tensor) -> Tensor:
    """Pixels shared by each pair of masks of one label: (n, n) float32; 0 for pairs of different labels.

    Grouped by label, so that the work falls with the number of categories; sums of ones are exact in float32. A part of
    the pixels at a time, so that the masks need not all become float32 at once.
    """
    result = torch.zeros(len(masks), len(masks), device=masks.device)
    flat = masks.flatten(1)
    order = labels.argsort()
    groups = order.split(torch.unique_consecutive(labels[order], return_counts=True)[1].tolist())
    for group in groups:
        if len(group) > 1:
            pairs = torch.zeros(len(group), len(group), device=masks.device)
            for pixels in flat[group].split(max(1, PIXELS_AT_ONCE // len(group)), 1):
                values = pixels.float()
                pairs.addmm_(values, values.T)
            result[group[:, None], group] = pairs
    return result


def matrix_nms(
    masks: Tensor,
    labels: Tensor,
    scores: Tensor,
    areas: Tensor,
    nms_pre: int = -1,
    max_per_image: int = -1,
    kernel: str = "gaussian",
    sigma: float = 2.0,
    update_threshold: float = -1,
) -> tuple[Tensor, Tensor]:
    """Matrix NMS with its cuts, as mmdetection's mask_matrix_nms.

    Args:
        masks, labels, scores, areas: as in `decayed_scores`, in any order.
        nms_pre: candidates that take part, best first; -1: all.
        max_per_image: results kept; -1: all.
        kernel, sigma: as in `decayed_scores`.
        update_threshold: decayed scores below it are left out; not positive: none is.

    Returns:
        scores (m,) float32, descending, and the candidate number (m,) int64 of each.
    """
    scores, order = scores.sort(descending=True)
    if nms_pre > 0:
        scores, order = scores[:nms_pre], order[:nms_pre]
    if len(order):
        scores = decayed_scores(masks[order], labels[order], scores, areas[order], kernel, sigma)
    if update_threshold > 0:
        keep = scores >= update_threshold
        scores, order = scores[keep], order[keep]
    scores, by_score = scores.sort(descending=True)
    order = order[by_score]
    return (scores, order) if max_per_image < 0 else (scores[:max_per_image], order[:max_per_image])
