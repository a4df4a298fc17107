"""Batches: which images go together, and how their samples become tensors.

The order is the reference's for `batch_size / images_per_device` processes (mmengine DefaultSampler, mmdetection
AspectRatioBatchSampler), whatever the number of processes here: each takes its share of those virtual ones, so the
result does not depend on how many there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from solo.config import Head
from solo.dataset import TestSample, TrainingSample
from solo.model.detector import DIVISOR
from solo.targets import Objects, Targets, build_targets


def epoch_batches(wide: list[bool], images_per_device: int, processes: int, seed: int, epoch: int) -> list[list[int]]:
    """The micro-batches of an epoch, step by step: entry `step * processes + process`.

    Args:
        wide: aspect group of each image.
        images_per_device: images of a micro-batch; the last may be smaller.
        processes: micro-batches per optimizer step.
        seed: of the shuffle, which is torch.randperm with seed + epoch as in the reference.
        epoch: counted from 0.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    order = torch.randperm(len(wide), generator=generator).tolist()
    total = math.ceil(len(order) / processes) * processes
    order = (order * (total // len(order) + 1))[:total]  # the first images again, so that all processes end together
    per_process = [_grouped(order[process::processes], wide, images_per_device) for process in range(processes)]
    return [batch for step in zip(*per_process, strict=True) for batch in step]


def _grouped(order: list[int], wide: list[bool], size: int) -> list[list[int]]:
    """Batches of one aspect group, in the order in which they fill up; leftovers, narrow ones first, at the end."""
    batches: list[list[int]] = []
    groups: dict[bool, list[int]] = {False: [], True: []}
    for index in order:
        group = groups[wide[index]]
        group.append(index)
        if len(group) == size:
            batches.append(group.copy())
            group.clear()
    rest = groups[False] + groups[True]
    return batches + [rest[i : i + size] for i in range(0, len(rest), size)]


class MicroBatches:
    """A batch sampler of (epoch, index) keys for one process, from any step on.

    Args:
        wide: aspect group of each training image.
        images_per_device: images of a micro-batch.
        virtual: micro-batches per optimizer step, over all processes.
        rank: this process, 0..world-1.
        world: number of processes; divides `virtual`.
        seed: of the order.
        epochs: to run.
        start: optimizer steps that are already done.
    """

    def __init__(
        self, wide: list[bool], images_per_device: int, virtual: int, rank: int, world: int, seed: int, epochs: int,
        start: int = 0,
    ) -> None:  # fmt: skip
        self.wide, self.images_per_device, self.virtual = wide, images_per_device, virtual
        self.rank, self.world, self.seed, self.epochs, self.start = rank, world, seed, epochs, start
        self.steps_per_epoch = math.ceil(math.ceil(len(wide) / virtual) / images_per_device)

    def __len__(self) -> int:
        return (self.epochs * self.steps_per_epoch - self.start) * (self.virtual // self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start // self.steps_per_epoch, self.epochs):
            batches = epoch_batches(self.wide, self.images_per_device, self.virtual, self.seed, epoch)
            done = max(0, self.start - epoch * self.steps_per_epoch)
            for number in range(done * self.virtual, len(batches)):
                if number % self.virtual % self.world == self.rank:
                    yield [(epoch, index) for index in batches[number]]


@dataclass(frozen=True)
class TrainingBatch:
    """A micro-batch.

    Attributes:
        image_ids: COCO ids.
        pixels: (B, H, W, 3) uint8, B G R, padded right and below to multiples of 32.
        sizes: (B, 2) int64, height and width of each image.
        targets: of the losses.
    """

    image_ids: tuple[int, ...]
    pixels: Tensor
    sizes: Tensor
    targets: Targets

    def to(self, device: torch.device) -> Self:
        """The same on `device`, copied without blocking."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            sizes=self.sizes.to(device, non_blocking=True),
            targets=self.targets.to(device),
        )

    def pin_memory(self) -> Self:
        """The same in page-locked memory (called by the loader)."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            sizes=self.sizes.pin_memory(),
            targets=self.targets.pin_memory(),
        )


@dataclass(frozen=True)
class TestBatch:
    """Images to predict; fields as in TrainingBatch, and the sizes of the files' images."""

    __test__ = False  # not a pytest class

    image_ids: tuple[int, ...]
    pixels: Tensor
    sizes: Tensor
    original_sizes: tuple[tuple[int, int], ...]


class Collate:
    """Turns training samples into a TrainingBatch; runs in the loader's workers.

    Args:
        head: the head's configuration, for the targets.
    """

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(self, samples: list[TrainingSample]) -> TrainingBatch:
        """Pad, assign and pack."""
        pixels, sizes = stack([sample.pixels for sample in samples])
        targets = self.targets(samples, (pixels.shape[1], pixels.shape[2]))
        return TrainingBatch(tuple(sample.image_id for sample in samples), pixels, sizes, targets)

    def targets(self, samples: list[TrainingSample], padded: tuple[int, int]) -> Targets:
        """The samples' targets in a batch that is padded to (height, width)."""
        masks = [mask for sample in samples for mask in sample.masks]
        objects = Objects(
            boxes=torch.from_numpy(np.concatenate([sample.boxes for sample in samples])),
            labels=torch.from_numpy(np.concatenate([sample.labels for sample in samples])),
            centers=torch.tensor(np.array([mask.center for mask in masks], np.float32).reshape(-1, 2)),
            areas=torch.tensor([mask.area for mask in masks], dtype=torch.int64),
            images=torch.tensor([i for i, s in enumerate(samples) for _ in s.masks], dtype=torch.int64),
        )

        def table(stride: int, rows: Tensor) -> Tensor:
            result = np.zeros((len(rows), padded[0] // stride, padded[1] // stride), np.bool_)
            for canvas, row in zip(result, rows.tolist(), strict=True):
                masks[row].block(stride).paint(canvas)
            return torch.from_numpy(result)

        return build_targets(objects, table, padded, len(samples), self.head)


def collate_test(samples: list[TestSample]) -> TestBatch:
    """Turn test samples into a padded TestBatch."""
    pixels, sizes = stack([sample.pixels for sample in samples])
    return TestBatch(tuple(s.image_id for s in samples), pixels, sizes, tuple(s.original_size for s in samples))


def stack(images: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(h, w, 3) images to (B, H, W, 3) uint8, padded to multiples of 32, and their sizes (B, 2) int64."""
    sizes = torch.tensor([image.shape[:2] for image in images])
    height, width = (-(-sizes.amax(0) // DIVISOR) * DIVISOR).tolist()
    batch = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    for slot, image in zip(batch, images, strict=True):
        slot[: image.shape[0], : image.shape[1]] = torch.from_numpy(image)
    return batch, sizes
