"""Bitmaps that a test draws, as the loader's regions."""

import cv2
import numpy as np

from solo.segmentation import Region


def region_of(bitmap: np.ndarray) -> Region:
    """The part of an (h, w) bitmap of 0 and 1 that holds its pixels."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(bitmap))
    return Region(top, left, bitmap[top : top + height, left : left + width])
