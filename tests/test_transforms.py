"""Images and masks at network size against OpenCV doing the same the long way."""

import cv2
import numpy as np
import pytest

from solo.targets import MASK_STRIDES
from solo.transforms import MaskResizer, nearest_indices, resize_image, resized_size
from tests.regions import region_of

SIZES = [((64, 80), (64, 80)), ((61, 77), (97, 122)), ((97, 53), (61, 33)), ((31, 200), (47, 301)), ((480, 5), (81, 8))]


@pytest.mark.parametrize(
    ("original", "scale", "expected"),
    [
        ((480, 640), (1333, 800), (800, 1067)),
        ((640, 427), (1333, 800), (1199, 800)),
        ((427, 640), (1333, 800), (800, 1199)),
        ((200, 612), (1333, 640), (436, 1333)),  # the long side limits; 435.6
        ((612, 200), (640, 1333), (1333, 436)),  # the order of the scale does not matter
        ((333, 500), (852, 512), (512, 769)),
        ((10, 10), (5, 5), (5, 5)),
        ((3, 2), (3, 3), (3, 2)),
    ],
)
def test_resized_size(original, scale, expected):
    assert resized_size(*original, scale) == expected


def test_images_are_resized_as_opencv_does_and_left_alone_where_they_fit():
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert resize_image(image, (33, 47)) is image
    assert np.array_equal(resize_image(image, (50, 71)), cv2.resize(image, (71, 50), interpolation=cv2.INTER_LINEAR))
    shrunk = np.array([[[0, 0, 0], [100, 100, 100], [200, 200, 200], [0, 0, 0]]], np.uint8)
    assert resize_image(shrunk, (1, 2))[0, :, 0].tolist() == [50, 100]  # two taps, no antialiasing


@pytest.mark.parametrize(("source", "target"), [(1, 5), (5, 1), (7, 7), (61, 97), (97, 61), (640, 1199), (427, 801)])
def test_nearest_indices_are_those_of_opencv(source, target):
    values = np.random.default_rng(source).integers(0, 256, (source, 3), dtype=np.uint8)
    expected = cv2.resize(values, (3, target), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(values[nearest_indices(source, target)], expected)


def random_mask(rng, height, width):
    """Noise, a blob or a few pixels."""
    kind = rng.integers(3)
    if kind == 0:
        return (rng.random((height, width)) < rng.random()).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    if kind == 1:
        center, axes = rng.integers(0, [width, height]).tolist(), (rng.integers(1, [width, height]) // 2 + 1).tolist()
        cv2.ellipse(mask, center, axes, 30, 0, 360, 1, -1)
    else:
        mask[rng.integers(height, size=3), rng.integers(width, size=3)] = 1
    return mask


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("original", "size"), SIZES)
def test_masks_equal_resizing_flipping_padding_and_reducing(original, size, flip):
    rng = np.random.default_rng(original[0])
    resize = MaskResizer(original, size, flip)
    for _ in range(20):
        bitmap = random_mask(rng, *original)
        full = cv2.resize(bitmap, size[::-1], interpolation=cv2.INTER_NEAREST)
        full = full[:, ::-1] if flip else full
        found = resize(region_of(bitmap))
        assert found.area == full.sum()
        if full.any():
            ys, xs = np.nonzero(full)
            assert found.center == pytest.approx((ys.mean(), xs.mean()), rel=1e-6, abs=1e-5)
        else:
            assert found.center == (0, 0)
        padded = np.zeros([-(-side // 32) * 32 for side in size], np.uint8)
        padded[: size[0], : size[1]] = full
        for stride in set(MASK_STRIDES):
            shape = padded.shape[1] // stride, padded.shape[0] // stride
            expected = cv2.resize(padded, shape, interpolation=cv2.INTER_LINEAR)
            canvas = np.zeros(expected.shape, np.bool_)
            found.block(stride).paint(canvas)
            assert np.array_equal(canvas, expected)


def test_an_empty_bitmap_stays_empty():
    found = MaskResizer((20, 30), (40, 60), True)(region_of(np.zeros((20, 30), np.uint8)))
    assert (found.area, found.center) == (0, (0, 0))
    assert not any(found.block(stride).cells.any() for stride in MASK_STRIDES)
