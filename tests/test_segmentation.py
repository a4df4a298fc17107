"""Segmentations to pixels: every form of COCO's, and regions against pycocotools' decoder."""

import numpy as np
import pytest
from pycocotools import mask as rle

from solo.errors import UserError
from solo.segmentation import compress, decode_segmentation, region, run_ends


def test_every_form_of_a_coco_segmentation():
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 2:6] = 1
    polygon = [2, 1, 6, 1, 6, 4, 2, 4]
    runs = [13, 3, 3, 3, 3, 3, 3, 3, 14]  # down the columns, zeros first
    compressed = rle.encode(np.asfortranarray(expected))
    for segmentation in (
        [polygon],
        [polygon, [0, 0, 1, 1]],  # two points are no polygon
        {"size": [6, 8], "counts": runs},
        compressed,
        {"size": [6, 8], "counts": compressed["counts"].decode()},
    ):
        found = decode_segmentation(segmentation, 6, 8)
        assert np.array_equal(found, expected)
    parts = decode_segmentation([polygon, [7, 5, 8, 5, 8, 6, 7, 6]], 6, 8)
    assert parts.sum() == 13
    assert decode_segmentation([[0, 0, 1, 1]], 6, 8) is None
    assert decode_segmentation([], 6, 8) is None


def test_run_lengths_of_another_size_are_refused():
    packed = rle.encode(np.zeros((6, 8), np.uint8, order="F"))
    with pytest.raises(UserError, match=r"\[6, 8\].*\[8, 6\]"):
        decode_segmentation(packed, 8, 6)


def painted(found, height, width):
    canvas = np.zeros((height, width), np.uint8)
    bottom, right = found.top + found.pixels.shape[0], found.left + found.pixels.shape[1]
    canvas[found.top : bottom, found.left : right] = found.pixels
    return canvas


@pytest.mark.parametrize("density", [0, 0.01, 0.5, 0.99, 1])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_region_holds_what_pycocotools_decodes(density, as_text):
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 40), (40, 1), *rng.integers(1, 60, (60, 2)).tolist()]:
        bitmap = np.asfortranarray(rng.random((height, width)) < density).astype(np.uint8, order="F")
        packed = rle.encode(bitmap)
        if as_text:
            packed["counts"] = packed["counts"].decode()
        found = region(packed)
        assert np.array_equal(painted(found, height, width), bitmap)
        for edge in (
            (found.pixels[0], found.pixels[-1], found.pixels[:, 0], found.pixels[:, -1]) if bitmap.any() else ()
        ):
            assert edge.any()


def test_long_runs_take_several_characters():
    bitmap = np.zeros((3000, 2000), np.uint8, order="F")
    bitmap[17:2900, 1200] = bitmap[5, 1900] = bitmap[:, 1300:1500] = 1
    packed = rle.encode(bitmap)
    expected = np.flatnonzero(np.diff(bitmap.ravel("F"), append=1 - bitmap[-1, -1])) + 1
    assert np.array_equal(run_ends(packed["counts"]), expected)
    assert np.array_equal(painted(region(packed), 3000, 2000), bitmap)


def test_polygons_are_drawn_as_pycocotools_draws_them():
    rng = np.random.default_rng(1)
    for _ in range(50):
        polygon = (rng.random(2 * rng.integers(3, 12)) * 90 - 5).round(2).tolist()  # beyond the frame, too
        packed = compress([polygon], 61, 77)
        assert np.array_equal(painted(region(packed), 61, 77), decode_segmentation([polygon], 61, 77))
