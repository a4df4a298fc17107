"""How fast one core prepares training images, stage by stage; `solo benchmark --loader` prints it.

A training keeps its device busy when workers x images_per_second exceeds what the step consumes.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import torch

from solo.batches import Collate
from solo.config import Config
from solo.dataset import TrainingSet, training_sample
from solo.segmentation import compress, region
from solo.transforms import resize_image, resized_size

STAGES = ("decode", "resize", "rasterize", "masks", "targets")


def measure_loader(data: TrainingSet, config: Config, images: int = 64) -> dict[str, Any]:
    """Milliseconds per image and stage on one core, and images per second of a whole worker.

    Args:
        data: training images; the first `images` are used, at the first training scale.
        config: scales and head.
        images: how many.

    Returns:
        `milliseconds` per image of decode (JPEG or PNG), resize, rasterize (segmentations to pixels), masks
        (pixels to targets' resolution) and targets (assignment and packing), `images_per_second`, `images`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    spent = dict.fromkeys(STAGES, 0.0)
    collate, scale = Collate(config.head), config.input.train_scales[0]
    pair = []
    for number in (data.indices[i % len(data)] for i in range(images)):
        annotations = data.split.annotations(number)
        with _timed(spent, "decode"):
            pixels = data.split.read(number)
        with _timed(spent, "resize"):
            resize_image(pixels, resized_size(pixels.shape[0], pixels.shape[1], scale))
        with _timed(spent, "rasterize"):
            for annotation in annotations:
                rle = None if annotation.crowd else compress(annotation.segmentation, pixels.shape[0], pixels.shape[1])
                if rle is not None:
                    region(rle)
        with _timed(spent, "masks"):
            pair.append(training_sample(0, pixels, annotations, scale, flip=False))
        if len(pair) == config.schedule.images_per_device:
            with _timed(spent, "targets"):
                collate(pair)
            pair = []
    torch.set_num_threads(threads)
    cv2.setNumThreads(-1)
    spent["masks"] -= spent["resize"] + spent["rasterize"]  # training_sample did those once more
    return {
        "images": images,
        "milliseconds": {stage: round(1000 * seconds / images, 3) for stage, seconds in spent.items()},
        "images_per_second": round(images / sum(spent.values()), 2),
    }


@contextlib.contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[stage] += time.perf_counter() - start
