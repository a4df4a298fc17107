"""Mask overlays: ground truth beside prediction, or the prediction of any image file.

solo show --predictions predictions.json --data DIR --split val2017 --out overlays
solo show --model model.pth photo.jpg --out overlays
"""

import argparse
import colorsys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from solo.artifacts import atomic, read_json
from solo.dataset import CocoSplit, read_image
from solo.errors import UserError
from solo.segmentation import decode_segmentation

Pixels = NDArray[np.uint8]
HEIGHT = 240  # least height of a picture, pixels; smaller images are enlarged so that captions can be read
OPACITY = 0.5


@dataclass(frozen=True)
class Drawn:
    """One instance to draw: (h, w) mask of 0 and 1, label 0..C-1, and its caption."""

    mask: Pixels
    label: int
    caption: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo show`."""
    parser.add_argument("images", nargs="*", help="image files to predict (with --model)")
    parser.add_argument("--model", help="model.pth, for image files")
    parser.add_argument("--predictions", help="predictions.json, for images of a split")
    parser.add_argument("--data", help="folder in COCO layout, with --predictions")
    parser.add_argument("--split", default="val2017", help="split of --data")
    parser.add_argument("--count", type=int, default=6, help="images of the split to draw, the ones with most objects")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score to draw, 0..1")
    parser.add_argument("--out", required=True, help="folder for the PNG files")


def run(args: argparse.Namespace) -> None:
    """Draw and write one PNG per image."""
    if args.predictions and args.data:
        drawn = split_overlays(args.predictions, CocoSplit(args.data, args.split), args.count, args.threshold)
    elif args.model and args.images:
        drawn = file_overlays(args.model, args.images, args.threshold)
    else:
        raise UserError("give either --predictions and --data, or --model and image files")
    for name, picture in drawn.items():
        path = Path(args.out) / f"{name}.png"
        with atomic(path, "wb") as file:
            file.write(cv2.imencode(".png", picture)[1].tobytes())
        print(path)


def split_overlays(predictions: str, split: CocoSplit, count: int, threshold: float) -> dict[str, Pixels]:
    """Ground truth beside prediction for the images with most objects (ties: first in the file), name to picture."""
    labels = {category.id: label for label, category in enumerate(split.categories)}
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in read_json(predictions):
        if result["score"] >= threshold:
            found[result["image_id"]].append(result)
    order = sorted(range(len(split.images)), key=lambda i: -len(split.annotations(i)))[:count]
    pictures = {}
    for index in order:
        image, pixels = split.images[index], split.read(index)
        truth = [
            Drawn(mask, ann.label, split.categories[ann.label].name)
            for ann in split.annotations(index)
            if not ann.crowd and (mask := decode_segmentation(ann.segmentation, image.height, image.width)) is not None
        ]
        predicted = [
            Drawn(
                _bitmap(result["segmentation"], image.height, image.width),
                labels[result["category_id"]],
                f"{split.categories[labels[result['category_id']]].name} {result['score']:.2f}",
            )
            for result in sorted(found[image.id], key=lambda r: r["score"])
        ]
        pair = [captioned(draw(pixels, truth), "ground truth"), captioned(draw(pixels, predicted), "prediction")]
        gap = np.full((pair[0].shape[0], 6, 3), 255, np.uint8)
        pictures[Path(image.file_name).stem] = np.hstack([pair[0], gap, pair[1]])
    return pictures


def _bitmap(segmentation: Any, height: int, width: int) -> Pixels:
    bitmap = decode_segmentation(segmentation, height, width)
    assert bitmap is not None
    return bitmap


def file_overlays(model_path: str, files: list[str], threshold: float) -> dict[str, Pixels]:
    """Predictions of image files, name to picture."""
    from solo.batches import collate_test
    from solo.checkpoint import load_model
    from solo.dataset import TestSample
    from solo.inference import detect
    from solo.predict import masks_at_original_size
    from solo.transforms import resize_image, resized_size

    model = load_model(model_path)
    config, pictures = model.run.config, {}
    for name in files:
        pixels = read_image(name)
        original = pixels.shape[0], pixels.shape[1]
        size = resized_size(*original, config.input.image_scale)
        batch = collate_test([TestSample(0, resize_image(pixels, size), original)])
        found = detect(
            model.detector, model.detector.normalize(batch.pixels, batch.sizes), config.test, config.head.strides
        )[0]
        masks = masks_at_original_size(found.masks, batch, 0, config.test.mask_threshold)
        instances = [
            Drawn(mask.view(np.uint8), label, f"{model.categories[label].name} {score:.2f}")
            for mask, label, score in zip(masks, found.labels.tolist(), found.scores.tolist(), strict=True)
            if score >= threshold
        ]
        pictures[Path(name).stem] = draw(pixels, instances[::-1])
    return pictures


def draw(pixels: Pixels, instances: list[Drawn]) -> Pixels:
    """The image with every instance in its category's colour, outlined and named; later ones on top."""
    scale = max(1.0, HEIGHT / pixels.shape[0])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    picture = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    captions = []
    for instance in instances:
        mask = cv2.resize(instance.mask, size, interpolation=cv2.INTER_NEAREST)
        colour = colour_of(instance.label)
        inside = mask.astype(bool)
        picture[inside] = (1 - OPACITY) * picture[inside] + OPACITY * np.array(colour)
        outlines = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, outlines, -1, colour, 1, cv2.LINE_AA)
        if inside.any():
            ys, xs = np.nonzero(inside)
            captions.append((instance.caption, (int(xs.min()), int(ys.min()))))
    result: Pixels = picture.clip(0, 255).astype(np.uint8)
    for caption, (x, y) in captions:
        _write(result, caption, (min(x, size[0] - 60), max(y, 12)))
    return result


def colour_of(label: int) -> tuple[float, float, float]:
    """A B G R colour of a label, far from its neighbours' (golden-ratio hues)."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 1.0)
    return 255 * blue, 255 * green, 255 * red


def captioned(picture: Pixels, caption: str) -> Pixels:
    """The picture below a white line with a caption."""
    line = np.full((20, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(line, caption, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([line, picture])


def _write(picture: Pixels, text: str, place: tuple[int, int]) -> None:
    for colour, width in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, width, cv2.LINE_AA)
