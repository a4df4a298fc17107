"""COCO-format folders: annotations parsed, images decoded, samples built as the reference builds them.

Category ids live here and in `predict`; everywhere else labels are 0..C-1 in the order of the ids' list.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from solo.artifacts import read_json
from solo.config import Input
from solo.errors import UserError
from solo.segmentation import compress, region
from solo.transforms import MaskResizer, ResizedMask, resize_image, resized_size


@dataclass(frozen=True)
class Category:
    """A COCO category."""

    id: int
    name: str


@dataclass(frozen=True)
class Image:
    """An entry of the annotation file's image list; sizes in pixels."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Annotation:
    """One object: box x1 y1 x2 y2 in original pixels, label 0..C-1, and its COCO segmentation."""

    box: tuple[float, float, float, float]
    label: int
    segmentation: Any
    crowd: bool


@dataclass(frozen=True)
class TrainingSample:
    """An image at network size with its objects.

    Attributes:
        image_id: COCO image id.
        pixels: (h, w, 3) uint8, B G R.
        boxes: (n, 4) float32, x1 y1 x2 y2, input-image pixels.
        labels: (n,) int64.
        masks: one per object.
    """

    image_id: int
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: list[ResizedMask]


@dataclass(frozen=True)
class TestSample:
    """An image at network size and the size of its file; pixels as in TrainingSample."""

    __test__ = False  # not a pytest class

    image_id: int
    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


class CocoSplit:
    """The parsed annotations of one split.

    Images are kept as bytes of one array, so that loader workers share them instead of copying them page by page.

    Args:
        root: folder with `annotations/` and the split's image folder.
        split: train2017, val2017, or any name with `annotations/instances_<split>.json` and `<split>/`.

    Raises:
        UserError: the folder or file is missing, empty or not COCO's format.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        self.root, self.split = Path(root), split
        self.annotation_file = self.root / "annotations" / f"instances_{split}.json"
        if not self.annotation_file.is_file():
            raise UserError(
                f"no {self.annotation_file}; a data folder holds annotations/instances_{split}.json and {split}/ "
                "(make one with `solo synth`, or fetch COCO with `solo fetch coco2017`)"
            )
        data = read_json(self.annotation_file)
        try:
            self.categories = [Category(c["id"], c["name"]) for c in data["categories"]]
            self.images = [Image(i["id"], i["file_name"], i["height"], i["width"]) for i in data["images"]]
            per_image = _by_image(data["annotations"], self.images, self.categories)
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.annotation_file} is not COCO's instances format: {error!r}") from error
        if not self.images or not self.categories:
            raise UserError(f"{self.annotation_file} lists no {'images' if self.categories else 'categories'}")
        known, annotated = {c.id for c in self.categories}, set()
        for ann in data["annotations"]:
            if ann["category_id"] in known:
                annotated.add(ann["image_id"])
        self.annotated = [image.id in annotated for image in self.images]
        blobs = [pickle.dumps(annotations) for annotations in per_image]
        self._ends = np.cumsum([len(blob) for blob in blobs])
        self._blob = np.frombuffer(b"".join(blobs), np.uint8)

    def annotations(self, index: int) -> list[Annotation]:
        """The objects of image number `index`, in the file's order, crowds included."""
        start = self._ends[index - 1] if index else 0
        return pickle.loads(self._blob[start : self._ends[index]].tobytes())

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode image number `index`: (h, w, 3) uint8, B G R (OpenCV, as the reference)."""
        return read_image(self.root / self.split / self.images[index].file_name)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file: (h, w, 3) uint8, B G R; raises UserError where it cannot be."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise UserError(f"cannot decode image {path}: it is missing or damaged")
    return pixels.astype(np.uint8, copy=False)


def _by_image(
    annotations: list[dict[str, Any]], images: list[Image], categories: list[Category]
) -> list[list[Annotation]]:
    """Usable annotations per image (mmdetection CocoDataset.parse_data_info).

    Left out: `ignore`d ones, boxes without area or outside the image, and categories that are not listed.
    """
    labels = {category.id: label for label, category in enumerate(categories)}
    number = {image.id: i for i, image in enumerate(images)}
    result: list[list[Annotation]] = [[] for _ in images]
    for ann in annotations:
        image = images[number[ann["image_id"]]]
        x, y, w, h = ann["bbox"]
        overlap_w = max(0, min(x + w, image.width) - max(x, 0))
        overlap_h = max(0, min(y + h, image.height) - max(y, 0))
        if ann.get("ignore") or ann["category_id"] not in labels or overlap_w * overlap_h == 0:
            continue
        if ann["area"] <= 0 or w < 1 or h < 1:
            continue
        label, crowd = labels[ann["category_id"]], bool(ann.get("iscrowd"))
        result[number[image.id]].append(Annotation((x, y, x + w, y + h), label, ann["segmentation"], crowd))
    return result


class TrainingSet(Dataset[TrainingSample]):
    """Training images: those with an annotation and a shorter side of at least `min_size`.

    An annotation that is a crowd or not usable counts, as in the reference (filter_empty_gt).

    Args:
        split: parsed annotations.
        settings: scales, flip and size filter.
        seed: of the augmentation; a sample depends on (seed, epoch, image) only, so any order and any number of
            workers and processes sees the same.

    Raises:
        UserError: no image is left.
    """

    def __init__(self, split: CocoSplit, settings: Input, seed: int) -> None:
        self.split, self.settings, self.seed = split, settings, seed
        self.indices = [
            i
            for i, image in enumerate(split.images)
            if split.annotated[i] and min(image.height, image.width) >= settings.min_size
        ]
        if not self.indices:
            raise UserError(
                f"{split.annotation_file}: none of {len(split.images)} images has an object and a shorter side of "
                f"at least input.min_size = {settings.min_size} pixels; nothing to train on"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def is_wide(self) -> list[bool]:
        """Whether each image is at least as wide as high (the reference's aspect-ratio groups)."""
        return [self.split.images[i].width >= self.split.images[i].height for i in self.indices]

    def __getitem__(self, key: tuple[int, int]) -> TrainingSample:
        """The sample of (epoch, index)."""
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        scales = self.settings.train_scales
        scale = scales[rng.integers(len(scales))]
        flip = bool(rng.random() < self.settings.flip_probability)
        number = self.indices[index]
        image_id = self.split.images[number].id
        return training_sample(image_id, self.split.read(number), self.split.annotations(number), scale, flip)


def training_sample(
    image_id: int, pixels: NDArray[np.uint8], annotations: list[Annotation], scale: tuple[int, int], flip: bool
) -> TrainingSample:
    """Resize and flip one image with its objects; crowds and objects without a valid polygon are left out."""
    original: tuple[int, int] = pixels.shape[0], pixels.shape[1]
    size = resized_size(original[0], original[1], scale)
    resize = MaskResizer(original, size, flip)
    boxes, labels, masks = [], [], []
    for ann in annotations:
        rle = None if ann.crowd else compress(ann.segmentation, *original)
        if rle is not None:
            boxes.append(ann.box)
            labels.append(ann.label)
            masks.append(resize(region(rle)))
    resized = resize_image(pixels, size)
    return TrainingSample(
        image_id,
        cv2.flip(resized, 1).astype(np.uint8, copy=False) if flip else resized,
        resize_boxes(np.array(boxes, np.float32).reshape(-1, 4), original, size, flip),
        np.array(labels, np.int64),
        masks,
    )


def resize_boxes(
    boxes: NDArray[np.float32], original: tuple[int, ...], size: tuple[int, int], flip: bool
) -> NDArray[np.float32]:
    """Scale, clip and mirror (n, 4) boxes x1 y1 x2 y2 from original to input-image pixels (mmdetection Resize)."""
    factors = np.array([size[1] / original[1], size[0] / original[0]] * 2, np.float32)
    boxes = np.clip(boxes * factors, 0, np.array([size[1], size[0]] * 2, np.float32))
    if flip:
        boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
    return boxes


class TestSet(Dataset[TestSample]):
    """Every image of a split at test-time size."""

    __test__ = False  # not a pytest class

    def __init__(self, split: CocoSplit, settings: Input) -> None:
        self.split, self.settings = split, settings

    def __len__(self) -> int:
        return len(self.split.images)

    def __getitem__(self, index: int) -> TestSample:
        pixels = self.split.read(index)
        original: tuple[int, int] = pixels.shape[0], pixels.shape[1]
        size = resized_size(original[0], original[1], self.settings.image_scale)
        return TestSample(self.split.images[index].id, resize_image(pixels, size), original)
