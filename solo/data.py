"""Check a COCO-format folder and describe it.

    solo data --data DIR --out data.json

Everything that would otherwise fail in the middle of a training is found here: missing images, sizes that do not
agree, an empty split.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from solo.artifacts import sha256, write_json
from solo.dataset import CocoSplit
from solo.errors import UserError

SAMPLE = 20  # images per split whose pixels are decoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo data`."""
    parser.add_argument("--data", required=True, help="folder in COCO layout")
    parser.add_argument("--splits", nargs="+", default=["train2017", "val2017"], help="splits that must be there")
    parser.add_argument("--out", required=True, help="data.json to write")


def run(args: argparse.Namespace) -> None:
    """Check, describe and print the counts."""
    description = describe(Path(args.data), args.splits)
    write_json(args.out, description)
    for name, split in description["splits"].items():
        print(f"{name}: {split['images']} images, {split['annotations']} objects, {split['crowds']} crowds")


def describe(root: Path, names: list[str]) -> dict[str, Any]:
    """The fields of data.json.

    Raises:
        UserError: a split is missing, empty or damaged, or the splits list different categories.
    """
    splits = [CocoSplit(root, name) for name in names]
    for split in splits:
        check_images(split)
        if split.categories != splits[0].categories:
            raise UserError(f"{split.annotation_file} lists other categories than {splits[0].annotation_file}")
    return {
        "schema": 1,
        "root": str(root),
        "name": root.name,
        "digest": data_digest(*splits),
        "categories": [{"id": c.id, "name": c.name} for c in splits[0].categories],
        "splits": {split.split: _counts(split) for split in splits},
    }


def check_images(split: CocoSplit) -> None:
    """Every image must exist; of some, the size must be the annotated one."""
    folder = split.root / split.split
    if not folder.is_dir():
        raise UserError(f"no image folder {folder}")
    present = {path.name for path in folder.iterdir()}
    missing = [image.file_name for image in split.images if image.file_name not in present]
    if missing:
        raise UserError(f"{folder} lacks {len(missing)} of {len(split.images)} images: {', '.join(missing[:3])} ...")
    step = max(1, len(split.images) // SAMPLE)
    for index in range(0, len(split.images), step):
        image, pixels = split.images[index], split.read(index)
        if pixels.shape[:2] != (image.height, image.width):
            raise UserError(
                f"{folder / image.file_name} is {pixels.shape[1]}x{pixels.shape[0]}, "
                f"{split.annotation_file} says {image.width}x{image.height}"
            )


def _counts(split: CocoSplit) -> dict[str, Any]:
    annotations = [split.annotations(i) for i in range(len(split.images))]
    return {
        "images": len(split.images),
        "annotations": sum(map(len, annotations)),
        "crowds": sum(annotation.crowd for image in annotations for annotation in image),
        "images_without_objects": sum(not image for image in annotations),
        "annotations_sha256": sha256(split.annotation_file),
    }


def data_digest(*splits: CocoSplit) -> str:
    """SHA-256 over each split's annotation file and the name and size in bytes of every image."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.split} {sha256(split.annotation_file)}\n".encode())
        for image in sorted(split.images, key=lambda image: image.file_name):
            path = split.root / split.split / image.file_name
            digest.update(f"{image.file_name} {path.stat().st_size if path.exists() else -1}\n".encode())
    return digest.hexdigest()
