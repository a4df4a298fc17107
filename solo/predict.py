"""Instance masks of a split in COCO's results format.

    solo predict --model model.pth --data DIR --split val2017 --out predictions.json

Images stream through: loader workers decode, the network runs, a thread encodes the masks of the batch before, and
each image's results go to the file as they come. Memory does not grow with the number of images.
"""

import argparse
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle_tools
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from solo.artifacts import atomic
from solo.batches import TestBatch, collate_test
from solo.checkpoint import load_model
from solo.config import Config
from solo.dataset import Category, CocoSplit, TestSet
from solo.device import autocast, pick_device, set_threads
from solo.errors import UserError
from solo.inference import detect
from solo.model.detector import Detector
from solo.model.folding import folded
from solo.paste import paste
from solo.progress import Progress

Result = dict[str, Any]
IN_FLIGHT = 4  # batches whose masks wait for the encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo predict`."""
    parser.add_argument("--model", required=True, help="model.pth of `solo train` or `solo convert`")
    parser.add_argument("--data", required=True, help="folder in COCO layout")
    parser.add_argument("--split", default="val2017", help="split to predict")
    parser.add_argument("--out", required=True, help="predictions.json to write: COCO results, RLE masks, no boxes")
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16", "fp16"), default="fp32", help="arithmetic")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--workers", type=int, default=2, help="loader processes")


def run(args: argparse.Namespace) -> None:
    """Predict a split."""
    set_threads(args.threads)
    device = pick_device(args.device)
    model = load_model(args.model, device)
    split = CocoSplit(args.data, args.split)
    check_categories(model.categories, split)
    results = predict_split(
        model.detector, split, model.run.config, device, args.precision, args.batch, args.workers, label="predict"
    )
    with atomic(args.out) as file:
        file.write("[")
        separator = "\n"
        for result in results:
            file.write(separator + json.dumps(result))
            separator = ",\n"
        file.write("\n]\n")


def check_categories(categories: list[Category], split: CocoSplit) -> None:
    """Refuse a data set with other categories than the model's, which would be scored as if they were the same."""
    if categories != split.categories:
        raise UserError(
            f"the model knows {len(categories)} categories ({_names(categories)}), {split.annotation_file} has "
            f"{len(split.categories)} ({_names(split.categories)}); both must list the same ids and names in one order"
        )


def _names(categories: list[Category]) -> str:
    names = [f"{category.id}:{category.name}" for category in categories[:5]]
    return ", ".join(names + ["..."] * (len(categories) > 5))


def predict_split(
    detector: Detector,
    split: CocoSplit,
    config: Config,
    device: torch.device,
    precision: str = "fp32",
    batch: int = 1,
    workers: int = 2,
    label: str | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Result]:
    """COCO results of a split, image by image in the order of the annotation file.

    Args:
        detector: on `device`.
        split: images to predict.
        config: sizes, thresholds and strides.
        device: where the network runs.
        precision: fp32, tf32, bf16 or fp16.
        batch: images at once.
        workers: loader processes.
        label: of the progress bar; None for none.
        share: (rank, world): every world-th image from rank on.

    Yields:
        image_id, category_id, score, segmentation (compressed RLE); never a bbox, which would make the evaluator
        split sizes by box area.
    """
    data = TestSet(split, config.input)
    mine = Subset(data, range(share[0], len(data), share[1]))
    loader = DataLoader(
        mine,
        batch_size=batch,
        collate_fn=collate_test,
        num_workers=min(workers, len(mine)),
        pin_memory=device.type == "cuda",
    )
    ids = [category.id for category in split.categories]
    network = folded(detector)
    pending: deque[Future[list[Result]]] = deque()
    with Progress(label or "", len(mine), "images", quiet=label is None) as progress, ThreadPoolExecutor(1) as encoder:
        for images in loader:
            with autocast(device, precision):
                normalized = network.normalize(images.pixels.to(device), images.sizes.to(device))
                found = detect(network, normalized, config.test, config.head.strides)
            for i, instances in enumerate(found):
                masks = masks_at_original_size(instances.masks, images, i, config.test.mask_threshold)
                scores, labels = instances.scores.tolist(), instances.labels.tolist()
                pending.append(encoder.submit(encode, images.image_ids[i], scores, [ids[k] for k in labels], masks))
            while len(pending) > IN_FLIGHT * batch:
                yield from pending.popleft().result()
            progress.update(len(found))
        while pending:
            yield from pending.popleft().result()


def masks_at_original_size(masks: Tensor, images: TestBatch, i: int, threshold: float) -> np.ndarray:
    """(n, h, w) bool array on the host of image `i` of the batch."""
    height, width = images.sizes[i].tolist()
    return paste(masks, (height, width), images.original_sizes[i], threshold).cpu().numpy()


def encode(image_id: int, scores: list[float], category_ids: list[int], masks: np.ndarray) -> list[Result]:
    """Results of one image; masks (n, h, w) bool."""
    results = []
    for score, category_id, mask in zip(scores, category_ids, masks, strict=True):
        rle = rle_tools.encode(np.asfortranarray(mask.view(np.uint8)))
        segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
        results.append({"image_id": image_id, "category_id": category_id, "score": score, "segmentation": segmentation})
    return results
