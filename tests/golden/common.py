"""What the sections share: models with the golden weights, inputs, and the golden files' forms."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from solo import config
from solo.batches import stack
from solo.model.detector import Detector, build_detector
from solo.model.head import MaskMaps
from solo.model.names import from_reference
from solo.targets import Objects, Targets, build_targets
from solo.transforms import MaskResizer
from tests.golden import fill, synth
from tests.regions import region_of

KINDS = {"solo": "solo", "decoupled": "decoupled_solo", "light": "decoupled_solo_light"}
OUTPUTS = {"solo": ["mask", "cls"], "decoupled": ["maskx", "masky", "cls"], "light": ["maskx", "masky", "cls"]}
LIGHT = dict(
    stacked_convs=4, scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
)  # reference: decoupled-solo-light_r50_fpn_3x_coco


def head_config(kind: str) -> config.Head:
    return config.Head(kind=KINDS[kind], **(LIGHT if kind == "light" else {}))


def reference_names(kind: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "public" / f"names_{kind}.json").read_text())["tensors"]


def by_reference_name(kind: str, detector: Detector) -> dict[str, Tensor]:
    """Our tensors under the reference's names; fails unless the two sets of names match exactly."""
    ours = detector.state_dict(keep_vars=True)
    named = {name: ours.pop(from_reference(name)) for name in reference_names(kind)}
    assert not ours, f"left over: {sorted(ours)}"
    return named


def build(kind: str, seed: int | None) -> Detector:
    detector = build_detector(config.Backbone(pretrained="none"), head_config(kind))
    if seed is not None:
        with torch.no_grad():
            fill.fill(by_reference_name(kind, detector), seed)
    return detector.train()


def image_info(h: int, w: int, spec: list, key: tuple) -> tuple[np.ndarray, dict[str, Any], tuple]:
    pixels = synth.image(h, w, *key)
    masks, boxes, labels = synth.instances(h, w, spec, *key)
    info = dict(
        h=h, w=w, image_crc=zlib.crc32(pixels.tobytes()), masks_crc=zlib.crc32(np.packbits(masks).tobytes()),
        boxes=boxes.tolist(), labels=labels.tolist(), mask_area=masks.sum((1, 2), dtype=np.int64).tolist(),
    )  # fmt: skip
    return pixels, info, (masks, boxes, labels)


def prepare(detector: Detector, images: list[np.ndarray]) -> Tensor:
    pixels, sizes = stack(images)
    return detector.normalize(pixels, sizes)


def batch_targets(kind: str, truths: list[tuple], padded: tuple[int, int]) -> Targets:
    """Targets of ready-made bitmaps through the product's own path."""
    masks, images = [], []
    for i, (bitmaps, _, _) in enumerate(truths):
        resize = MaskResizer(bitmaps.shape[1:], bitmaps.shape[1:], False)
        masks += [resize(region_of(m)) for m in bitmaps]
        images += [i] * len(bitmaps)
    objects = Objects(
        torch.from_numpy(np.concatenate([t[1] for t in truths])),
        torch.from_numpy(np.concatenate([t[2] for t in truths])),
        torch.tensor(np.array([m.center for m in masks], np.float32).reshape(-1, 2)),
        torch.tensor([m.area for m in masks], dtype=torch.int64),
        torch.tensor(images, dtype=torch.int64),
    )

    def table(stride: int, rows: Tensor) -> Tensor:
        result = np.zeros((len(rows), padded[0] // stride, padded[1] // stride), np.bool_)
        for canvas, row in zip(result, rows.tolist(), strict=True):
            masks[row].block(stride).paint(canvas)
        return torch.from_numpy(result)

    return build_targets(objects, table, padded, len(truths), head_config(kind))


class Bag(dict):
    """Arrays to be stored; `big` stores a summary."""

    def big(self, key: str, value: Tensor, n: int = 2048) -> None:
        sample, stat = synth.summary(key, value.detach().numpy(), n)
        self[key + "/val"], self[key + "/stat"] = sample, stat
        self[key + "/shape"] = np.array(value.shape, np.int32)

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **self)


def dump(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value))


class GivenMaps(nn.Module):
    """A head whose outputs are given arrays: logits of all cells, or of all columns and rows."""

    def __init__(self, grid_sizes: tuple[int, ...], maps: list[list[Tensor]], grids: list[Tensor]) -> None:
        super().__init__()
        self.grid_sizes, self.maps, self.grids = grid_sizes, maps, grids

    def category_logits(self, features: list[Tensor]) -> list[Tensor]:
        return self.grids

    def mask_parameters(self) -> list[Tensor]:
        return []

    def mask_features(self, feature: Tensor) -> tuple[Tensor, ...]:
        return tuple(feature.unbind(1))

    def level_inputs(self) -> list[Tensor]:
        """Stand-ins for features: maps of each level, stacked so that a batch row can be taken."""
        return [torch.stack(parts, 1) for parts in zip(*self.maps, strict=True)]

    def mask_maps(self, level: int, features: tuple[Tensor, ...], cells: Tensor) -> list[MaskMaps]:
        if len(features) == 1:
            return [MaskMaps(features[0][cells], torch.arange(len(cells)))]
        size = self.grid_sizes[level]
        return [MaskMaps(features[0], cells % size), MaskMaps(features[1], cells // size)]
