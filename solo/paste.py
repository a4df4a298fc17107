"""Masks brought to the size of the original image.

The reference resizes twice, bilinearly: from stride 4 to the padded input, cropped to the image, then to the original
size (mmdetection SOLOHead._predict_by_feat_single). Both steps are linear and separable, so a mask at the original
size is `rows @ mask @ columns.T` with two matrices that have four entries a row.
"""

from bisect import bisect_left

import torch
from torch import Tensor

BLOCK = 64  # pixels of an axis that are resized by one product


class Axis:
    """One axis of the double resize.

    Args:
        source: cells at stride 4 of the padded input.
        image: pixels of the resized image inside the padding.
        original: pixels of the original image.
    """

    def __init__(self, source: int, image: int, original: int) -> None:
        low, high, fraction = _taps(image, original)
        inner_low, inner_high, inner_fraction = _taps(source, 4 * source)
        sources = torch.stack([inner_low[low], inner_high[low], inner_low[high], inner_high[high]], 1)
        weights = torch.stack(
            [
                (1 - fraction) * (1 - inner_fraction[low]),
                (1 - fraction) * inner_fraction[low],
                fraction * (1 - inner_fraction[high]),
                fraction * inner_fraction[high],
            ],
            1,
        )
        self.matrix = torch.zeros(original, source).scatter_add_(1, sources, weights)  # (original, source)
        self.first, self.last = sources[:, 0].tolist(), sources[:, 3].tolist()

    def apply(self, lines: Tensor, target: slice, source: slice) -> Tensor:
        """Resize along the first dimension: (source cells, m) to (target pixels, m).

        The matrix is a band: it is multiplied in blocks, each with the few source cells that it sees.
        """
        result = torch.empty(target.stop - target.start, lines.shape[1])
        for start in range(target.start, target.stop, BLOCK):
            end = min(start + BLOCK, target.stop)
            seen = slice(self.first[start], self.last[end - 1] + 1)
            torch.mm(
                self.matrix[start:end, seen],
                lines[seen.start - source.start : seen.stop - source.start],
                out=result[start - target.start : end - target.start],
            )
        return result

    def around(self, start: int, end: int) -> tuple[slice, slice]:
        """The original pixels that depend on source cells start..end-1, and all source cells those depend on."""
        target = slice(bisect_left(self.last, start), bisect_left(self.first, end))
        if target.start >= target.stop:
            return slice(0, 0), slice(0, 0)
        return target, slice(self.first[target.start], self.last[target.stop - 1] + 1)


def _taps(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper source index of each target pixel and the upper one's weight (bilinear, corners not aligned)."""
    place = ((torch.arange(target) + 0.5) * (source / target) - 0.5).clamp(min=0)
    low = place.long().clamp(max=source - 1)
    return low, (low + 1).clamp(max=source - 1), place - low


def paste(masks: Tensor, image_size: tuple[int, int], original_size: tuple[int, int], threshold: float) -> Tensor:
    """Masks at the original image's size.

    On a CPU each mask is resized only around its pixels above the threshold: a bilinear value is a mean of its
    sources, so nothing further away can exceed it. On a GPU one batched product is faster than many small ones.

    Args:
        masks: (n, h, w) float32 probabilities at stride 4 of the padded input.
        image_size: height and width of the resized image inside the padding.
        original_size: height and width of the file's image.
        threshold: of the mask probability, strictly above.

    Returns:
        (n, *original_size) bool.
    """
    rows, columns = (Axis(*sizes) for sizes in zip(masks.shape[1:], image_size, original_size, strict=True))
    if masks.is_cuda:
        return rows.matrix.to(masks.device) @ masks @ columns.matrix.T.to(masks.device) > threshold
    result = torch.zeros(len(masks), *original_size, dtype=torch.bool)
    above = masks > threshold
    for i, (top, bottom, left, right) in enumerate(zip(*_extent(above.any(2)), *_extent(above.any(1)), strict=True)):
        target_y, source_y = rows.around(top, bottom)
        target_x, source_x = columns.around(left, right)
        wide = columns.apply(masks[i, source_y, source_x].T, target_x, source_x)  # (target columns, source rows)
        result[i, target_y, target_x] = rows.apply(wide.T, target_y, source_y) > threshold
    return result


def _extent(lines: Tensor) -> tuple[list[int], list[int]]:
    """First set entry and one past the last of each row of (n, size) bool; 0 and 0 where none is set."""
    places = torch.arange(1, lines.shape[1] + 1) * lines
    return lines.long().argmax(1).tolist(), places.amax(1).tolist()
