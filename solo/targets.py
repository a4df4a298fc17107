"""Which cells are positive, for which object, and what their masks should be.

All objects of a batch on all levels are assigned at once, with no loop over objects or levels. It runs where its
tensors are; the loader calls it in its workers, so that the training step knows every count without asking the
device.

The arithmetic is the reference's (mmdetection SOLOHead._get_targets_single), its quirks included:
- level and centre region come from the annotated box, the centre itself from the mask;
- scale ranges include both ends, so an object on a bound belongs to both levels;
- a grid index is trunc((c / size) / (1 / S)) in float32 on the padded size, which is one below floor(c * S / size)
  for some centres on grid lines;
- later objects of an image overwrite earlier ones in a cell.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from solo.config import Head

MASK_STRIDES = (4, 4, 8, 16, 16)  # of the mask maps: half the strides of the levels


@dataclass(frozen=True)
class Objects:
    """The annotated objects of a batch, image after image, each image's in the order of its annotations.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2, input-image pixels.
        labels: (N,) int64, 0..C-1.
        centers: (N, 2) float32, y x of the mask's centre of mass, input-image pixels.
        areas: (N,) int64, pixels of the mask at input size; 0 for a mask that vanished.
        images: (N,) int64, number of the image in the batch.
    """

    boxes: Tensor
    labels: Tensor
    centers: Tensor
    areas: Tensor
    images: Tensor


@dataclass(frozen=True)
class Targets:
    """What the losses compare with.

    Attributes:
        labels: (cells,) int64 over levels, images, cells; C where a cell holds no object.
        cells: per level (P,) int64, row-major cell numbers of the positive cells.
        images: per level (P,) int64, the image of each, ascending.
        rows: per level (P,) int64, the row of each in the level's mask table.
        masks: mask stride to (M, ceil(H / stride * W / stride / 8)) uint8, bits of the objects' masks.
        padded: height and width of the batch, pixels.
        counts: per level and image, the number of positive cells (host integers).
    """

    labels: Tensor
    cells: tuple[Tensor, ...]
    images: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    masks: dict[int, Tensor]
    padded: tuple[int, int]
    counts: tuple[tuple[int, ...], ...]

    def to(self, device: torch.device) -> Self:
        """The same on `device`, copied without blocking."""
        return replace(
            self,
            labels=self.labels.to(device, non_blocking=True),
            masks={stride: table.to(device, non_blocking=True) for stride, table in self.masks.items()},
            **{
                field.name: tuple(t.to(device, non_blocking=True) for t in getattr(self, field.name))
                for field in fields(self)
                if field.name in ("cells", "images", "rows")
            },
        )

    def pin_memory(self) -> Self:
        """The same in page-locked memory (called by the loader)."""
        return replace(
            self,
            labels=self.labels.pin_memory(),
            masks={stride: table.pin_memory() for stride, table in self.masks.items()},
            **{name: tuple(t.pin_memory() for t in getattr(self, name)) for name in ("cells", "images", "rows")},
        )

    def level_masks(self, level: int) -> Tensor:
        """The masks of a level's positive cells: (P, h, w) bool at the level's mask stride."""
        stride = MASK_STRIDES[level]
        height, width = self.padded[0] // stride, self.padded[1] // stride
        return unpack(self.masks[stride][self.rows[level]], height, width)


def assign(objects: Objects, padded: tuple[int, int], images: int, head: Head) -> list[Tensor]:
    """The object of each cell.

    Args:
        objects: of the whole batch.
        padded: height and width of the padded batch, pixels.
        images: images in the batch, B.
        head: grid_sizes, scale_ranges and center_sigma.

    Returns:
        Per level (B, S * S) int64: row in `objects`, or -1 where the cell is empty.
    """
    device = objects.boxes.device
    grids = torch.tensor(head.grid_sizes, device=device)[:, None]  # (L, 1)
    spacing = torch.tensor([1.0 / size for size in head.grid_sizes], device=device)[:, None]
    bounds = torch.tensor(head.scale_ranges, device=device)  # (L, 2)
    width, height = (objects.boxes[:, 2:] - objects.boxes[:, :2]).unbind(1)
    scale = torch.sqrt(width * height)
    hit = (scale >= bounds[:, :1]) & (scale <= bounds[:, 1:]) & (objects.areas > 0)  # (L, N)

    def grid_index(position: Tensor, size: int) -> Tensor:
        return torch.div(position / size, spacing, rounding_mode="trunc").long()  # (L, N)

    ranges = []
    for center, extent, size in zip(objects.centers.unbind(1), (height, width), padded, strict=True):
        reach = 0.5 * extent * head.center_sigma
        middle = grid_index(center, size)
        first = torch.maximum(grid_index(center - reach, size).clamp(min=0), middle - 1)
        last = torch.minimum(torch.minimum(grid_index(center + reach, size), grids - 1), middle + 1)
        ranges.append(first[..., None] + torch.arange(3, device=device))  # (L, N, 3), at most 3 rows or columns
        hit_range = ranges[-1] <= last[..., None]
        hit = hit & (first <= last)
        ranges.append(hit_range)
    rows, rows_in, columns, columns_in = ranges
    inside = hit[..., None, None] & rows_in[..., :, None] & columns_in[..., None, :]  # (L, N, 3, 3)
    cell = rows[..., :, None] * grids[..., None, None] + columns[..., None, :]
    order = torch.arange(len(scale), device=device)[:, None, None].expand(cell.shape[1:])

    owners = []
    for level, size in enumerate(head.grid_sizes):
        flat = torch.where(inside[level], objects.images[:, None, None] * size**2 + cell[level], images * size**2)
        owner = torch.full((images * size**2 + 1,), -1, dtype=torch.int64, device=device)
        owner.scatter_reduce_(0, flat.flatten(), order.flatten(), "amax")  # the last object wins
        owners.append(owner[:-1].view(images, size**2))
    return owners


def build_targets(
    objects: Objects, masks: Callable[[int, Tensor], Tensor], padded: tuple[int, int], images: int, head: Head
) -> Targets:
    """Assign the batch's objects and keep only the masks that a positive cell needs.

    Args:
        objects: of the whole batch.
        masks: the masks of some objects: (stride, rows (M,)) to (M, H / stride, W / stride) bool, padded.
        padded: height and width of the padded batch, pixels.
        images: images in the batch.
        head: the head's configuration.
    """
    owners = assign(objects, padded, images, head)
    none = torch.tensor([head.num_classes], device=objects.labels.device)
    lookup = torch.cat([objects.labels, none])  # row -1 is "no object"
    positive = [(owner >= 0).nonzero().unbind(1) for owner in owners]
    rows = [owner[image, cell] for owner, (image, cell) in zip(owners, positive, strict=True)]
    tables, table_rows = {}, list(rows)
    for stride in sorted(set(MASK_STRIDES)):
        levels = [level for level, s in enumerate(MASK_STRIDES) if s == stride]
        used, index = torch.unique(torch.cat([rows[level] for level in levels]), return_inverse=True)
        tables[stride] = pack(masks(stride, used))
        for level, part in zip(levels, index.split([len(rows[level]) for level in levels]), strict=True):
            table_rows[level] = part
    return Targets(
        labels=torch.cat([lookup[owner].flatten() for owner in owners]),
        cells=tuple(cell for _, cell in positive),
        images=tuple(image for image, _ in positive),
        rows=tuple(table_rows),
        masks=tables,
        padded=padded,
        counts=tuple(tuple(torch.bincount(image, minlength=images).tolist()) for image, _ in positive),
    )


def pack(masks: Tensor) -> Tensor:
    """(M, h, w) bool to (M, ceil(h * w / 8)) uint8, first pixel in the lowest bit."""
    if masks.device.type == "cpu":
        return torch.from_numpy(np.packbits(masks.flatten(1).numpy(), axis=1, bitorder="little"))
    pixels = masks.shape[1] * masks.shape[2]
    size = -(-pixels // 8)
    bits = torch.nn.functional.pad(masks.flatten(1), (0, 8 * size - pixels)).view(len(masks), size, 8)
    weights = 1 << torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits * weights).sum(2, dtype=torch.uint8)


def unpack(packed: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: (M, bytes) uint8 to (M, height, width) bool."""
    bits = packed[..., None] >> torch.arange(8, device=packed.device, dtype=torch.uint8) & 1  # (M, bytes, 8)
    return bits.flatten(1)[:, : height * width].view(len(packed), height, width).bool()
