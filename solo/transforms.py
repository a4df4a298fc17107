"""Images and masks at network size, as the reference resizes and flips them.

Masks are never resized as images. The targets need four pixels of each 4x4, 8x8 or 16x16 block of the resized mask,
its area and its centre of mass; all of them are read from the annotation's own bitmap through the index maps of the
nearest-neighbour resize. The values are those of resizing first (mmdetection Resize, RandomFlip, BitmapMasks), with a
fraction of the memory traffic.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from solo.segmentation import Region
from solo.targets import MASK_STRIDES


def resized_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """The size that fits (long side, short side) with the aspect ratio kept, rounded half up (mmcv rescale_size)."""
    long_side, short_side = max(scale), min(scale)
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 to (*size, 3), OpenCV's bilinear without antialiasing, as in the reference."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def nearest_indices(source: int, target: int) -> NDArray[np.int64]:
    """The source index of each of `target` pixels in OpenCV's nearest-neighbour resize: (target,)."""
    line = np.arange(source, dtype=np.int32).astype(np.float32)[None]
    return cv2.resize(line, (target, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.int64)


@dataclass(frozen=True)
class Block:
    """A part of a mask at one stride; everything beyond it is empty.

    Attributes:
        top, left: place of its first cell.
        cells: (h, w) bool.
    """

    top: int
    left: int
    cells: NDArray[np.bool_]

    def paint(self, canvas: NDArray[np.bool_]) -> None:
        """Write the part into an empty (H, W) mask of the same stride."""
        height, width = self.cells.shape
        canvas[self.top : self.top + height, self.left : self.left + width] = self.cells


class ResizedMask:
    """What training needs of one resized (and flipped) mask.

    Attributes:
        area: pixels at input size.
        center: y, x of the centre of mass, input-image pixels, float32; 0, 0 for an empty mask.

    Args:
        region: the object's pixels at the original size.
        resizer: knows where they go.
    """

    def __init__(self, region: Region, resizer: "MaskResizer") -> None:
        self._resizer = resizer
        self._pixels, self._top, self._left = region.pixels, region.top, region.left
        self._bottom, self._right = region.top + region.pixels.shape[0], region.left + region.pixels.shape[1]
        count_y, place_y = (w[self._top : self._bottom] for w in resizer.row_weights)
        count_x, place_x = (w[self._left : self._right] for w in resizer.column_weights)
        pixels = region.pixels.astype(np.float32)  # sums below 2^24: float32 products are exact
        per_row = (pixels @ count_x.astype(np.float32)).astype(np.float64)
        per_column = (count_y.astype(np.float32) @ pixels).astype(np.float64)
        self.area = int(per_row @ count_y)
        normalizer = np.float32(max(self.area, 1))
        self.center = (np.float32(per_row @ place_y) / normalizer, np.float32(per_column @ place_x) / normalizer)

    def block(self, stride: int) -> Block:
        """The part of the target of a mask stride (4, 8 or 16 pixels) that holds the object.

        A cell is 1 where at least two of the block's four central pixels are set: OpenCV's bilinear reduction by
        `stride` reads pixels [o, o + 1] of each block, o = stride / 2 - 1, and rounds their mean half up (mmdetection:
        mmcv.imrescale of the mask).
        """
        rows, columns = self._resizer.central[stride]
        first_row, rows = _touching(rows, self._top, self._bottom)
        first_column, columns = _touching(columns, self._left, self._right)
        upright = _pair_sum(self._pixels, rows)  # (h', w)
        return Block(first_row, first_column, _pair_sum(upright.T, columns).T >= 2)  # (h', w')


class MaskResizer:
    """Reads resized and flipped masks of one image from objects at its original size.

    Args:
        original: height and width of the annotation's frame.
        size: height and width after resizing.
        flip: mirror left to right after resizing.
    """

    def __init__(self, original: tuple[int, int], size: tuple[int, int], flip: bool) -> None:
        self.size = size
        self.rows = nearest_indices(original[0], size[0])
        self.columns = nearest_indices(original[1], size[1])
        if flip:
            self.columns = self.columns[::-1]
        # how often each original row or column occurs, and the sum of the places where it does
        self.row_weights = _weights(self.rows, original[0])
        self.column_weights = _weights(self.columns, original[1])
        self.central = {
            stride: (_central(self.rows, stride), _central(self.columns, stride))
            for stride in sorted(set(MASK_STRIDES))
        }

    def __call__(self, region: Region) -> ResizedMask:
        """The resized mask of an object."""
        return ResizedMask(region, self)


def _extent(line: NDArray[np.bool_]) -> tuple[int, int]:
    """First set entry and one past the last; 0 and 0 where none is set."""
    places = np.flatnonzero(line)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _weights(indices: NDArray[np.int64], size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return (
        np.bincount(indices, minlength=size).astype(np.float64),
        np.bincount(indices, weights=np.arange(len(indices)), minlength=size).astype(np.float64),
    )


def _central(indices: NDArray[np.int64], stride: int) -> NDArray[np.int64]:
    """Source indices of the two central pixels of each block: (blocks, 2); -1 beyond the image."""
    offset = stride // 2 - 1
    places = np.arange(-(-len(indices) // stride))[:, None] * stride + offset + np.arange(2)
    return np.where(places < len(indices), indices[np.minimum(places, len(indices) - 1)], -1)


def _touching(pairs: NDArray[np.int64], start: int, end: int) -> tuple[int, NDArray[np.int64]]:
    """The blocks with a pixel in start..end-1: the first one's number, and their pixels (n, 2), -1 for any other."""
    inside = (pairs >= start) & (pairs < end)
    first, last = _extent(np.asarray(inside.any(1)))
    return first, np.where(inside, pairs - start, -1)[first:last]


def _pair_sum(values: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Sums of the two rows of each pair; row -1 is zero."""
    rows = np.concatenate([values, np.zeros((1, values.shape[1]), np.uint8)])
    return rows[pairs[:, 0]] + rows[pairs[:, 1]]
