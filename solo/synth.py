"""`solo synth --out DIR`: the embedded COCO-format data set of drawn shapes, bit-identical for a seed.

Three classes of several sizes over textured backgrounds, overlapping, with a few crowd regions and images without
objects. Each image depends on the seed, its split and its index alone: a smaller set is the start of a larger one.
"""

import argparse
import hashlib
import json
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pycocotools import mask as rle

from solo.artifacts import read_json
from solo.errors import UserError
from solo.progress import Progress
from solo.shapes import CATEGORIES, Mask, draw_scene

# Enters every synth.json; raise it with any change that moves a pixel or an annotation.
GENERATOR_VERSION = 1
SPLITS = ("train2017", "val2017")
_ID_STRIDE = 1_000_000  # image ids of the two splits never meet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo synth`."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--images", type=int, default=800, metavar="N", help="training images")
    parser.add_argument("--val-images", type=int, default=80, metavar="N", help="validation images")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="short side of an image, pixels")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="0 to 4294967295")


def run(args: argparse.Namespace) -> None:
    """Draw the set, or say that it is there already."""
    drawn = synthesize(args.out, images=args.images, val_images=args.val_images, size=args.size, seed=args.seed)
    for split in SPLITS:
        annotations = read_json(args.out / f"annotations/instances_{split}.json")
        images, objects = len(annotations["images"]), len(annotations["annotations"])
        print(f"{args.out}/{split}: {images} images, {objects} objects" + ("" if drawn else " (already there)"))


def synthesize(out: str | Path, *, images: int = 800, val_images: int = 80, size: int = 128, seed: int = 0) -> bool:
    """Write the data set to the folder `out`, whole or not at all.

    Args:
        out: folder to make; it may exist if it is empty or holds the very same set.
        images, val_images: images of train2017 and val2017, 1 to 999999 each.
        size: short side of every image in pixels, 64 to 1024.
        seed: 0 to 2³² - 1.

    Returns:
        True if the set was drawn, False if an equal one was there.

    Raises:
        UserError: a value out of its range, or `out` holds anything else, which is left untouched.
    """
    out = Path(out)
    for name, value, low, high in (
        ("--images", images, 1, _ID_STRIDE - 1),
        ("--val-images", val_images, 1, _ID_STRIDE - 1),
        ("--size", size, 64, 1024),
        ("--seed", seed, 0, 2**32 - 1),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} {value} is out of range; valid: {low} to {high}")
    parameters = {
        "generator": GENERATOR_VERSION,
        "images": images,
        "val_images": val_images,
        "size": size,
        "seed": seed,
    }
    if _holds(out, parameters):
        return False
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.absolute().with_name(f".{out.absolute().name}.lock")):
            if _holds(out, parameters):
                return False
            _build(out.absolute(), parameters)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    return True


def _build(out: Path, parameters: dict[str, int]) -> None:
    """Draw into a sibling folder, then rename it; a killed run's leftover is drawn over anew."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "annotations").mkdir(parents=True)
    counts = (parameters["images"], parameters["val_images"])
    try:
        with Progress(f"drawing {out.name}", sum(counts), "images") as progress:
            for split, count in enumerate(counts):
                (part / SPLITS[split]).mkdir()
                coco = _draw_split(part / SPLITS[split], split, count, parameters, progress)
                path = part / f"annotations/instances_{SPLITS[split]}.json"
                path.write_text(json.dumps(coco, separators=(",", ":")) + "\n", encoding="utf-8")
        note = {"schema": 1, "parameters": parameters, "digest": _digest(part)}
        (part / "synth.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        os.rename(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _draw_split(folder: Path, split: int, count: int, parameters: dict[str, int], progress: Progress) -> dict[str, Any]:
    """Draw the images of one split into `folder`; returns its COCO annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    category_ids = {name: identity for identity, name in CATEGORIES.items()}
    for index in range(count):
        rng = np.random.RandomState([parameters["seed"], split, index])
        width, height = _image_size(parameters["size"], index)
        # By index, not by chance, so that even a small set has one of each.
        objects = 0 if index % 23 == 5 else 1 + int(rng.randint(0, 5, dtype=np.int64))
        scene = draw_scene(rng, width, height, objects=objects, crowd=index % 17 == 3)
        image_id = split * _ID_STRIDE + index + 1
        name = f"{image_id:012d}.png"
        (folder / name).write_bytes(encode_png(scene.image))
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for owner, (kind, crowd) in enumerate(scene.objects):
            annotation = {"id": split * _ID_STRIDE + len(annotations) + 1, "image_id": image_id}
            annotation["category_id"] = category_ids[kind]
            annotations.append(annotation | describe(scene.visible(owner), crowd=crowd))
        progress.update()
    return {
        "info": {"description": "drawn shapes: solo synth", "version": str(parameters["generator"])},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": identity, "name": name, "supercategory": "shape"} for identity, name in CATEGORIES.items()
        ],
    }


def _image_size(side: int, index: int) -> tuple[int, int]:
    """(width, height): three landscape images and two portrait ones in turn, of two aspect ratios."""
    long, longer = side * 9 // 8, side * 5 // 4
    return ((longer, side), (side, longer), (longer, side), (side, long), (long, side))[index % 5]


def describe(mask: Mask, *, crowd: bool = False) -> dict[str, Any]:
    """The COCO fields of one object's mask.

    Polygons along the pixels' edges, so that they decode to the very mask; RLE where a mask has a hole, which COCO's
    polygons cannot express (compressed), and for crowds (uncompressed, as in COCO's own files).

    Args:
        mask: (H, W) bool, at least one pixel set.

    Returns:
        segmentation, area (pixels), bbox ([x, y, w, h] pixels, floats), iscrowd.
    """
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    x, y = columns[0], rows[0]
    box = [float(x), float(y), float(columns[-1] + 1 - x), float(rows[-1] + 1 - y)]
    polygons = None if crowd else _polygons(mask)
    segmentation: Any = polygons
    if polygons is None:
        segmentation = _uncompressed_rle(mask) if crowd else _compressed_rle(mask)
    return {"segmentation": segmentation, "area": float(mask.sum()), "bbox": box, "iscrowd": int(crowd)}


def _polygons(mask: Mask) -> list[list[float]] | None:
    """One [x, y, x, y, ...] per connected part, corners in pixel edges; None if a part has a hole."""
    # Each pixel becomes 2×2, whose outline (a + 1) // 2 maps onto the pixel's own four corners.
    doubled = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if (hierarchy[0, :, 3] >= 0).any():
        return None
    outlines = [_corners((contour[:, 0].astype(np.int64) + 1) // 2) for contour in contours]
    return sorted([float(value) for value in outline.ravel()] for outline in outlines)


def _corners(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where a closed walk along pixel edges turns, from its top left corner on, clockwise: (N, 2) -> (M, 2)."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    points = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    # Start and sense are OpenCV's own affair, and the annotations' bytes must not depend on its version.
    following = np.roll(points, -1, axis=0)
    if (points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]).sum() < 0:
        points = points[::-1]
    return np.roll(points, -int(np.lexsort((points[:, 0], points[:, 1]))[0]), axis=0)


def _uncompressed_rle(mask: Mask) -> dict[str, Any]:
    """Lengths of the runs of 0 and 1 in turn, down the columns, the first one of 0."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"counts": [int(count) for count in counts], "size": list(mask.shape)}


def _compressed_rle(mask: Mask) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"counts": encoded["counts"].decode("ascii"), "size": list(mask.shape)}


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG without compression: unlike a zlib build's choices, its bytes are the same everywhere.

    Args:
        image: (H, W, 3) uint8, BGR as OpenCV has it.
    """
    height, width = image.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # each row behind its filter type 0
    rows[:, 1:] = image[:, :, ::-1].reshape(height, 3 * width)
    data = rows.tobytes()
    stored = bytearray(b"\x78\x01")
    for start in range(0, len(data), 65535):
        block = data[start : start + 65535]
        stored += struct.pack("<BHH", start + 65535 >= len(data), len(block), 65535 - len(block)) + block
    stored += struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", bytes(stored)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _holds(out: Path, parameters: dict[str, int]) -> bool:
    """Whether `out` is the very set asked for; False if there is nothing.

    Raises:
        UserError: something else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    mend = "choose another --out, or remove it first"
    if not (out / "synth.json").is_file():
        raise UserError(f"{out} exists and is not a synthetic data set; {mend}")
    note = read_json(out / "synth.json")
    there = note.get("parameters") if isinstance(note, dict) else None
    if there != parameters:
        raise UserError(f"{out} holds a set of other parameters: {there}, asked for: {parameters}; {mend}")
    if note.get("digest") != _digest(out):
        raise UserError(f"{out} was changed since it was drawn; {mend}")
    return True


def _digest(root: Path) -> str:
    """SHA-256 over the name and bytes of every file of the set."""
    digest = hashlib.sha256()
    for folder in ("annotations", *SPLITS):
        for path in sorted((root / folder).glob("*")):
            body = path.read_bytes()
            digest.update(f"{folder}/{path.name} {len(body)}\n".encode() + body)
    return digest.hexdigest()
