"""Small data sets in COCO layout with the 80 COCO categories, which checkpoints without names of their own need."""

import json
from pathlib import Path
from typing import Any

from solo.coco_categories import COCO
from solo.synth import synthesize

CATEGORIES = [{"id": key, "name": name, "supercategory": "thing"} for name, key in COCO.items()]


def drawn(root: Path, images: int, val_images: int, size: int, seed: int) -> Path:
    """The synthetic set."""
    synthesize(root, images=images, val_images=val_images, size=size, seed=seed)
    return root


def with_coco_categories(root: Path) -> Path:
    """Relabel a synthetic set: its categories become COCO's of the same ids, the other 77 stay empty."""
    for path in (root / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"] = CATEGORIES
        path.write_text(json.dumps(content))
    return root


def subset(source: Path, split: str, numbers: list[int], root: Path) -> Path:
    """A folder with some images of a split (as links) and their annotations."""
    content = json.loads((source / f"annotations/instances_{split}.json").read_text())
    content["images"] = [content["images"][i] for i in numbers]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    (root / "annotations").mkdir(parents=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    (root / split).mkdir()
    for image in content["images"]:
        (root / split / image["file_name"]).symlink_to((source / split / image["file_name"]).resolve())
    return root


def images(root: Path, split: str) -> list[dict[str, Any]]:
    """The annotation file's list of images."""
    content: dict[str, Any] = json.loads((root / f"annotations/instances_{split}.json").read_text())
    return list(content["images"])
