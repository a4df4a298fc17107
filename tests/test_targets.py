"""Targets: by hand on a 4x4 grid, and against a loop over objects, levels and cells written from the paper."""

import cv2
import numpy as np
import pytest
import torch

from solo.batches import Collate
from solo.config import Head
from solo.dataset import TrainingSample
from solo.targets import MASK_STRIDES, Targets, pack, unpack
from solo.transforms import MaskResizer
from tests.regions import region_of

FOUR = Head(num_classes=3, grid_sizes=(4, 1, 1, 1, 1), scale_ranges=((1, 2048), (0, 0), (0, 0), (0, 0), (0, 0)))
PYRAMID = Head(
    num_classes=5, grid_sizes=(12, 10, 8, 6, 4), scale_ranges=((1, 24), (16, 48), (32, 64), (56, 104), (96, 2048))
)


def sample(height, width, objects, image_id=1):
    """A training sample of (box, label, bitmap); a bitmap of None is the box itself."""
    resize = MaskResizer((height, width), (height, width), False)
    bitmaps = []
    for (left, top, right, bottom), _, bitmap in objects:
        if bitmap is None:
            bitmap = np.zeros((height, width), np.uint8)
            bitmap[int(top) : int(bottom), int(left) : int(right)] = 1
        bitmaps.append(bitmap)
    return TrainingSample(
        image_id,
        np.zeros((height, width, 3), np.uint8),
        np.array([box for box, _, _ in objects], np.float32).reshape(-1, 4),
        np.array([label for _, label, _ in objects], np.int64),
        [resize(region_of(bitmap)) for bitmap in bitmaps],
    )


def targets(head, *samples):
    return Collate(head)(list(samples)).targets


def grid(found, head, level, image, images):
    """(S, S) labels of a level and image, -1 where there is no object."""
    cells = [images * size**2 for size in head.grid_sizes]
    labels = found.labels.split(cells)[level].view(images, head.grid_sizes[level], -1)[image]
    return torch.where(labels == head.num_classes, -1, labels).tolist()


def test_a_small_centre_takes_one_cell_and_a_wide_box_its_neighbour():
    found = targets(FOUR, sample(128, 128, [((40, 40, 120, 120), 1, None)]))
    assert found.cells[0].tolist() == [2 * 4 + 2]  # centre 79.5, reach 8: 71.5 to 87.5, all in cell 2
    assert found.counts == ((1,), (0,), (0,), (0,), (0,))
    found = targets(FOUR, sample(128, 128, [((0, 64, 128, 96), 0, None)]))
    assert found.cells[0].tolist() == [2 * 4 + 1, 2 * 4 + 2]  # x: 63.5 ± 12.8
    assert grid(found, FOUR, 0, 0, 1) == [[-1] * 4, [-1] * 4, [-1, 0, 0, -1], [-1] * 4]
    assert found.level_masks(0)[0].nonzero()[:, 0].unique().tolist() == list(range(16, 24))


def test_at_most_three_cells_a_side_and_none_beyond_the_border():
    wide = FOUR.model_copy(update={"center_sigma": 1.0})
    assert targets(wide, sample(128, 128, [((0, 0, 128, 128), 0, None)])).counts[0] == (9,)
    corner = targets(wide, sample(128, 128, [((0, 0, 30, 30), 0, None)]))
    assert corner.cells[0].tolist() == [0]


def test_the_later_object_wins():
    first, second = ((32, 32, 96, 96), 0, None), ((36, 36, 92, 92), 2, None)
    for order, label in (((first, second), 2), ((second, first), 0)):
        found = targets(FOUR, sample(128, 128, order))
        cells = found.cells[0].tolist()
        assert {found.labels[cell].item() for cell in cells} == {label}
        assert all(mask.sum() == (14**2 if label == 2 else 16**2) for mask in found.level_masks(0))


def test_a_bound_belongs_to_both_levels():
    box = (40, 40, 88, 88)  # sqrt(48 * 48) ends level 1 and lies inside level 2
    assert [sum(c) > 0 for c in targets(PYRAMID, sample(128, 128, [(box, 0, None)])).counts] == [0, 1, 1, 0, 0]
    for side, levels in ((24, [1, 1, 0, 0, 0]), (16, [1, 1, 0, 0, 0]), (15, [1, 0, 0, 0, 0]), (25, [0, 1, 0, 0, 0])):
        found = targets(PYRAMID, sample(128, 128, [((40, 40, 40 + side, 40 + side), 0, None)]))
        assert [sum(count) > 0 for count in found.counts] == levels


def test_an_image_without_objects_and_an_object_without_pixels():
    empty = targets(PYRAMID, sample(64, 96, []))
    vanished = targets(PYRAMID, sample(64, 96, [((10, 10, 40, 40), 1, np.zeros((64, 96), np.uint8))]))
    for found in (empty, vanished):
        assert (found.labels == PYRAMID.num_classes).all()
        assert found.counts == ((0,),) * 5
        assert [found.level_masks(level).shape for level in range(5)] == [
            (0, 64 // stride, 96 // stride) for stride in MASK_STRIDES
        ]


def scene(seed, height=None, width=None):
    """Random blobs whose boxes are not quite theirs; some empty, some at the border."""
    rng = np.random.default_rng(seed)
    height, width = height or int(rng.integers(40, 200)), width or int(rng.integers(40, 200))
    objects = []
    for _ in range(rng.integers(0, 12)):
        bitmap = np.zeros((height, width), np.uint8)
        axes = rng.integers(1, [width, height]) // 2 + 1
        center = rng.integers(0, [width, height])
        cv2.ellipse(bitmap, center.tolist(), axes.tolist(), float(rng.integers(180)), 0, 360, 1, -1)
        low, high = np.maximum(center - axes, 0), np.minimum(center + axes, [width, height])
        jitter = rng.uniform(-3, 3, 4).astype(np.float32) * (rng.random() < 0.5)
        box = np.clip(np.concatenate([low, np.maximum(high, low + 7)]) + jitter, 0, [width, height] * 2)
        if rng.random() < 0.1:
            bitmap[:] = 0
        objects.append((tuple(box), int(rng.integers(5)), bitmap))
    return sample(height, width, objects, seed), objects


def slow_targets(objects, padded, head):
    """Per level a dict of cell to (label, mask), object after object (paper sec. 3.3.1; grid index in float32)."""
    f = np.float32
    levels = []
    for size, (low, high), stride in zip(head.grid_sizes, head.scale_ranges, MASK_STRIDES, strict=True):
        cells = {}
        for box, label, bitmap in objects:
            left, top, right, bottom = map(f, box)
            if not low <= np.sqrt((right - left) * (bottom - top)) <= high or not bitmap.any():
                continue
            full = np.zeros(padded, np.uint8)
            full[: bitmap.shape[0], : bitmap.shape[1]] = bitmap
            mask = cv2.resize(full, (padded[1] // stride, padded[0] // stride), interpolation=cv2.INTER_LINEAR)
            ys, xs = np.nonzero(full)
            spans = []
            for center, extent, side in ((ys.mean(), bottom - top, padded[0]), (xs.mean(), right - left, padded[1])):
                place = [int(f(f(f(center) + d) / f(side)) / f(1 / size)) for d in reach(extent, head)]
                first, middle, last = max(0, place[0]), place[1], min(size - 1, place[2])
                spans.append(range(max(first, middle - 1), min(last, middle + 1) + 1))
            for y in spans[0]:
                for x in spans[1]:
                    cells[y * size + x] = (label, mask)
        levels.append(cells)
    return levels


def reach(extent, head):
    half = np.float32(0.5) * np.float32(extent) * np.float32(head.center_sigma)
    return -half, np.float32(0), half


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_a_loop_over_objects(seed):
    drawn, objects = scene(seed)
    found = targets(PYRAMID, drawn)
    for level, cells in enumerate(slow_targets(objects, found.padded, PYRAMID)):
        assert found.cells[level].tolist() == sorted(cells)
        flat = np.array(grid(found, PYRAMID, level, 0, 1)).ravel()
        assert flat[flat >= 0].tolist() == [cells[cell][0] for cell in sorted(cells)]
        for cell, mask in zip(found.cells[level].tolist(), found.level_masks(level), strict=True):
            assert np.array_equal(mask.numpy(), cells[cell][1] > 0)


def test_a_batch_is_its_images_one_after_the_other():
    samples = [scene(100, 96, 128)[0], scene(101, 96, 128)[0], sample(96, 128, []), scene(102, 96, 128)[0]]
    together, alone = targets(PYRAMID, *samples), [targets(PYRAMID, s) for s in samples]
    assert sum(map(sum, together.counts)) > 20
    for level in range(5):
        assert together.counts[level] == tuple(t.counts[level][0] for t in alone)
        assert together.cells[level].tolist() == [c for t in alone for c in t.cells[level].tolist()]
        assert together.images[level].tolist() == [i for i, t in enumerate(alone) for _ in t.cells[level]]
        assert torch.equal(together.level_masks(level), torch.cat([t.level_masks(level) for t in alone]))
        for image, single in enumerate(alone):
            assert grid(together, PYRAMID, level, image, 4) == grid(single, PYRAMID, level, 0, 1)


@pytest.mark.parametrize("shape", [(0, 5, 7), (1, 1, 1), (3, 1, 9), (2, 7, 9), (4, 8, 8), (5, 13, 17)])
def test_packing_is_undone_by_unpacking(shape):
    masks = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = pack(masks)
    assert packed.shape == (shape[0], -(-shape[1] * shape[2] // 8))
    assert torch.equal(unpack(packed, *shape[1:]), masks)


def test_targets_go_to_a_device_whole():
    found = targets(PYRAMID, scene(7)[0])
    moved = found.to(torch.device("meta"))
    assert isinstance(moved, Targets)
    assert {t.device.type for t in (moved.labels, *moved.cells, *moved.images, *moved.rows, *moved.masks.values())} == {
        "meta"
    }
