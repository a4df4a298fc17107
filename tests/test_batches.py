"""Batches: every image, one aspect group at a time, the same for any number of processes and from any step on."""

import math

import numpy as np
import pytest
import torch

from solo.batches import MicroBatches, collate_test, epoch_batches, stack
from solo.dataset import TestSample

WIDE = [bool(i % 3) for i in range(41)]


def sampler(rank=0, world=1, start=0, wide=WIDE, epochs=3):
    return MicroBatches(wide, 2, 4, rank, world, seed=5, epochs=epochs, start=start)


@pytest.mark.parametrize("count", [1, 7, 8, 41, 64])
@pytest.mark.parametrize(("size", "processes"), [(1, 1), (2, 4), (3, 2), (8, 1)])
def test_every_image_is_there_and_a_few_twice(count, size, processes):
    batches = epoch_batches([bool(i % 2) for i in range(count)], size, processes, seed=1, epoch=0)
    flat = [index for batch in batches for index in batch]
    assert set(flat) == set(range(count))
    assert len(flat) == math.ceil(count / processes) * processes
    assert len(batches) % processes == 0
    assert max(map(len, batches)) <= size


def test_a_batch_is_of_one_aspect_group_but_for_the_leftovers():
    batches = epoch_batches(WIDE, 2, 4, seed=1, epoch=0)
    for batch in batches[:-8]:
        assert len({WIDE[index] for index in batch}) == 1


def test_order_is_that_of_the_reference_for_one_process():
    """mmengine's DefaultSampler and mmdetection's AspectRatioBatchSampler: groups filled in shuffled order."""
    wide = [True, False, True, True, False]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3 + 2)).tolist()
    expected, groups = [], {True: [], False: []}
    for index in order:
        groups[wide[index]].append(index)
        if len(groups[wide[index]]) == 2:
            expected.append(groups[wide[index]])
            groups[wide[index]] = []
    rest = groups[False] + groups[True]
    assert epoch_batches(wide, 2, 1, seed=3, epoch=2) == expected + ([rest] if rest else [])


def test_epochs_differ_and_repeat_for_a_seed():
    first, second = (epoch_batches(WIDE, 2, 4, seed=1, epoch=epoch) for epoch in (0, 1))
    assert first != second
    assert first == epoch_batches(WIDE, 2, 4, seed=1, epoch=0)
    assert first != epoch_batches(WIDE, 2, 4, seed=7, epoch=0)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_the_same_steps(world):
    alone = list(sampler())
    parts = [list(sampler(rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    assert all(len(part) == len(sampler(0, world)) for part in parts)
    per_step = 4 // world
    together = []
    for step in range(len(parts[0]) // per_step):
        shares = [part[step * per_step : (step + 1) * per_step] for part in parts]
        together += [batch for turn in zip(*shares, strict=True) for batch in turn]
    assert together == alone


@pytest.mark.parametrize("world", [1, 2])
def test_resuming_gives_the_remaining_keys(world):
    for rank in range(world):
        straight = list(sampler(rank, world))
        steps = sampler().steps_per_epoch * 3
        for start in range(steps + 1):
            resumed = sampler(rank, world, start)
            assert list(resumed) == straight[start * 4 // world :]
            assert len(resumed) == len(straight) - start * 4 // world


def test_steps_per_epoch():
    assert sampler().steps_per_epoch == 6  # 41 images, 11 per process, 6 batches of at most 2
    assert len(list(sampler(epochs=1))) == 6 * 4
    assert [key[0] for batch in sampler() for key in batch][:: 44 * 2] == [0, 2]


def test_images_are_padded_below_and_to_the_right():
    images = [np.full((40, 65, 3), 7, np.uint8), np.full((64, 33, 3), 9, np.uint8)]
    batch = collate_test([TestSample(i, image, (10, 20)) for i, image in enumerate(images)])
    assert batch.pixels.shape == (2, 64, 96, 3)
    assert batch.sizes.tolist() == [[40, 65], [64, 33]]
    assert batch.original_sizes == ((10, 20), (10, 20))
    assert batch.pixels[0, :40, :65].eq(7).all()
    assert batch.pixels[0].sum() == 7 * 40 * 65 * 3
    assert stack(images[:1])[0].shape == (1, 64, 96, 3)
