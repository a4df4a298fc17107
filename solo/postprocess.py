"""From category grids and mask features to instances (paper sec. 3.3.3).

Categories come first. Masks are then computed for the cells whose score passes, a chunk at a time, best scores first,
and of each only its bits, area and score are kept; the probabilities of the few that survive Matrix NMS are computed
once more. So memory depends neither on the number of grid cells nor on the number of candidates. Candidates that
cannot enter the best `nms_pre` any more are not computed at all: a mask score is at most one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from solo.config import Test
from solo.matrix_nms import matrix_nms
from solo.model.head import GridHead, MaskFeatures


@dataclass(frozen=True)
class Instances:
    """The instances of one image, best first.

    Attributes:
        scores: (n,) float32.
        labels: (n,) int64, 0..C-1.
        masks: (n, h, w) float32 probabilities at stride 4 of the padded input.
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Candidates:
    """Cells whose category score passed, best first; each field (n,)."""

    scores: Tensor  # float32
    labels: Tensor  # int64
    levels: Tensor  # int64
    cells: Tensor  # int64, row-major within the level


def point_nms(grid: Tensor) -> Tensor:
    """Keep a probability where it is the largest among the cell and its upper and left neighbours.

    Args:
        grid: (B, C, S, S) probabilities.

    Returns:
        The same with the others set to zero (mmdetection SOLOHead.forward: 2x2 maximum, padding 1).
    """
    largest = F.max_pool2d(grid, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return grid * (largest == grid)


def find_candidates(grids: list[Tensor], test: Test) -> Candidates:
    """The cells of one image above `score_threshold`, at most `max_candidates`.

    Args:
        grids: per level (C, S, S) probabilities after `point_nms`.
        test: thresholds.
    """
    device = grids[0].device
    flat = torch.cat([grid.flatten(1) for grid in grids], 1).T.float()  # (cells, C)
    sizes = torch.tensor([grid.shape[1] * grid.shape[2] for grid in grids], device=device)
    ends = sizes.cumsum(0)
    position, labels = (flat > test.score_threshold).nonzero().unbind(1)
    scores, order = flat[position, labels].sort(descending=True, stable=True)
    scores, order = scores[: test.max_candidates], order[: test.max_candidates]
    position = position[order]
    levels = torch.bucketize(position, ends, right=True)
    return Candidates(scores, labels[order], levels, position - (ends - sizes)[levels])


class Lines(NamedTuple):
    """Maps of a level's columns or rows."""

    maps: Tensor  # (u, *size) probabilities
    numbers: Tensor  # (S,) int64, the map of each line that has one


class MaskSource:
    """Masks of one image's cells at stride 4, computed on demand.

    The factors of the decoupled heads belong to columns and rows and are few: those of a level that its candidates need
    are computed once. The masks of SOLO's cells are computed anew each time.

    Args:
        head: the detector's head.
        size: height and width of the stride-4 grid.
    """

    def __init__(self, head: GridHead, size: tuple[int, int]) -> None:
        self.head, self.size = head, size
        self.features: dict[int, MaskFeatures] = {}
        self.factors: dict[int, tuple[Lines, Lines]] = {}  # columns and rows

    def add(self, level: int, features: MaskFeatures, cells: Tensor) -> None:
        """Take a level's last hidden maps, each (F, h, w), and all its cells (n,) whose masks will be asked for."""
        if not self.head.by_lines:
            self.features[level] = features
            return
        side = self.head.grid_sizes[level]
        columns, rows = (
            Lines(self.resized(maps), cells.new_zeros(side).index_put_((lines,), index))
            for (maps, index), lines in zip(
                self.head.mask_maps(level, features, cells), (cells % side, cells // side), strict=True
            )
        )
        self.factors[level] = columns, rows

    def __call__(self, levels: Tensor, cells: Tensor) -> Tensor:
        """Probabilities of the cells' masks: (n, *size) float32, in the order given."""
        result = torch.empty(len(cells), *self.size, device=cells.device)
        for level in self.features.keys() | self.factors.keys():
            chosen = (levels == level).nonzero()[:, 0]
            if len(chosen) and level in self.factors:
                self._multiply(level, cells[chosen], chosen, result)
            elif len(chosen):
                maps = self.head.mask_maps(level, self.features[level], cells[chosen])[0]
                result[chosen] = self.resized(maps.logits)
        return result

    def _multiply(self, level: int, cells: Tensor, places: Tensor, result: Tensor) -> None:
        """Write the products of the cells' columns and rows into their places."""
        side = self.head.grid_sizes[level]
        columns, rows = self.factors[level]
        x, y = columns.numbers[cells % side], rows.numbers[cells // side]
        if result.device.type != "cpu":
            result[places] = columns.maps[x].mul_(rows.maps[y])
            return
        for place, column, row in zip(places.tolist(), x.tolist(), y.tolist(), strict=True):
            torch.mul(columns.maps[column], rows.maps[row], out=result[place])  # no map is copied before it is used

    def resized(self, logits: Tensor) -> Tensor:
        """(u, h, w) logits to (u, *size) float32 probabilities, resized after the sigmoid as in the reference."""
        maps = logits.float().sigmoid()
        return maps if maps.shape[1:] == self.size else F.interpolate(maps[None], size=self.size, mode="bilinear")[0]


class Contenders:
    """The candidates seen so far that may be among the best `nms_pre`; so many masks are kept and not many more.

    Args:
        nms_pre: candidates that enter Matrix NMS; not positive: all.
        capacity: candidates that may come.
        source: of the masks.
        device: of the masks.
    """

    def __init__(self, nms_pre: int, capacity: int, source: MaskSource, device: torch.device) -> None:
        self.limit = nms_pre if nms_pre > 0 else capacity
        capacity = min(capacity, 2 * self.limit)
        self.masks = torch.empty(capacity, *source.size, dtype=torch.bool, device=device)
        self.values = torch.empty(3, capacity, device=device)  # scores, areas, candidate numbers (exact below 2^24)
        self.count = 0

    def add(self, masks: Tensor, scores: Tensor, areas: Tensor, numbers: Tensor) -> None:
        """Take (n, h, w) bool masks with their (n,) scores, areas in pixels and candidate numbers."""
        for start in range(0, len(masks), self.limit):  # at most half of the room at a time
            part = slice(start, start + self.limit)
            if self.count + len(masks[part]) > len(self.masks):
                self._drop()
            place = slice(self.count, self.count + len(masks[part]))
            self.masks[place] = masks[part]
            self.values[:, place] = torch.stack([scores[part], areas[part], numbers[part].float()])
            self.count = place.stop

    def _drop(self) -> None:
        """Keep the best `limit`, in the order in which they came."""
        best = self.values[0, : self.count].sort(descending=True, stable=True).indices[: self.limit].sort().values
        self.count = len(best)
        self.masks[: self.count] = self.masks[best]
        self.values[:, : self.count] = self.values[:, best]

    def all_beat(self, score: Tensor) -> bool:
        """Whether `limit` candidates score above `score`."""
        scores = self.values[0, : self.count]
        return self.count >= self.limit and bool(scores.topk(self.limit).values[-1] > score)


def select(candidates: Candidates, source: MaskSource, strides: tuple[int, ...], test: Test) -> Instances:
    """Score the candidates' masks, run Matrix NMS and return what survives.

    Args:
        candidates: best first.
        source: gives masks at stride 4.
        strides: of the five levels; a mask must cover more pixels than its level's stride.
        test: thresholds, kernel and chunk.
    """
    limits = torch.tensor(strides, device=candidates.scores.device)[candidates.levels]
    contenders = Contenders(test.nms_pre, len(limits), source, limits.device)
    for start in range(0, len(limits), test.chunk):
        part = slice(start, start + test.chunk)
        if contenders.all_beat(candidates.scores[start]):
            break
        masks = source(candidates.levels[part], candidates.cells[part])
        solid = F.threshold(masks, test.mask_threshold, 0, inplace=True)  # 0 where the mask is not above
        area = solid.sign().flatten(1).sum(1)  # exact in float32
        maskness = solid.flatten(1).sum(1) / area
        kept = (area > limits[part]).nonzero()[:, 0]
        contenders.add((solid > 0)[kept], (candidates.scores[part] * maskness)[kept], area[kept], kept + start)
    if not contenders.count:
        return Instances(candidates.scores[:0], candidates.labels[:0], torch.zeros(0, *source.size))
    scores, areas, numbers = contenders.values[:, : contenders.count]
    row = numbers.long()
    final, order = matrix_nms(
        contenders.masks[: contenders.count],
        candidates.labels[row],
        scores,
        areas,
        test.nms_pre,
        test.max_per_image,
        test.nms_kernel,
        test.nms_sigma,
        test.update_threshold,
    )
    winners = row[order]
    return Instances(final, candidates.labels[winners], source(candidates.levels[winners], candidates.cells[winners]))
