"""COCO segmentations as pixels: whole bitmaps, or only the part that holds the object.

pycocotools draws polygons and packs runs; its decoder writes the whole image byte by byte, which took 0.28 of the
0.31 ms that an object of a 640x480 photo cost the loader. So training reads the runs themselves (`region`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle_tools

from solo.errors import UserError

Bitmap = NDArray[np.uint8]
Runs = dict[str, Any]  # COCO's compressed run lengths: size [height, width] and counts (bytes or str)
ALTERNATING = np.array([0, 1], np.uint8)


@dataclass(frozen=True)
class Region:
    """The part of a bitmap that holds its pixels.

    Attributes:
        top, left: place of its first pixel.
        pixels: (h, w) uint8 of 0 and 1; everything beyond is 0.
    """

    top: int
    left: int
    pixels: Bitmap


def decode_segmentation(segmentation: Any, height: int, width: int) -> Bitmap | None:
    """A COCO segmentation as an (h, w) bitmap of 0 and 1; None as in `compress`."""
    rle = compress(segmentation, height, width)
    return None if rle is None else rle_tools.decode(rle)


def compress(segmentation: Any, height: int, width: int) -> Runs | None:
    """A COCO segmentation (polygons, RLE with counts as a list or compressed) as compressed runs.

    Polygons with fewer than three points are left out; None when no polygon is left (mmdetection LoadAnnotations).

    Raises:
        UserError: run lengths of another size than the image's.
    """
    if not isinstance(segmentation, list):
        if list(segmentation["size"]) != [height, width]:
            raise UserError(
                f"an annotation's run lengths are for {segmentation['size']} pixels (height, width), its image has "
                f"{[height, width]}; the annotation file does not fit the images"
            )
        compressed = not isinstance(segmentation["counts"], list)
        return segmentation if compressed else rle_tools.frPyObjects(segmentation, height, width)
    polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    return rle_tools.merge(rle_tools.frPyObjects(polygons, height, width)) if polygons else None


def region(rle: Runs) -> Region:
    """The smallest part of the bitmap of `rle` that holds its pixels; of an empty one, no pixels."""
    left, top, width, height = (int(side) for side in rle_tools.toBbox(rle))
    if not width or not height:
        return Region(0, 0, np.zeros((0, 0), np.uint8))
    rows = rle["size"][0]
    start, end = left * rows, (left + width) * rows  # of the columns that hold the object, one after the other
    bounds = np.concatenate([[start], run_ends(rle["counts"]).clip(start, end), [end]])
    values = ALTERNATING[np.arange(len(bounds) - 1) % 2]  # what lies beyond the last run repeats it, zero times
    columns = np.repeat(values, np.diff(bounds)).reshape(width, rows)
    return Region(top, left, columns[:, top : top + height].T)


def run_ends(counts: bytes | str) -> NDArray[np.int64]:
    """Where each run of COCO's compressed counts ends, in pixels down the columns; the first run is of zeros.

    A character holds five bits of a signed number, lowest first, and whether more follow; from the fourth number on
    it is the difference to the number two before (cocoapi maskApi.c, rleToString).
    """
    bits = np.frombuffer(counts.encode() if isinstance(counts, str) else counts, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    place = 5 * (np.arange(len(bits)) - np.repeat(first, length))
    numbers = np.add.reduceat((bits & 31) << place, first)
    numbers -= np.where(bits[last] & 16, 1 << 5 * length, 0)
    for start in (1, 2):
        numbers[start::2] = numbers[start::2].cumsum()
    return numbers.cumsum()
