"""From category grids and mask features to instances (paper sec. 3.3.3).

Categories come first. Masks are then computed for the cells whose score passes, a chunk at a time, best scores first,
and of each only its bits, area and score are kept; the probabilities of the few that survive Matrix NMS are computed
once more. So memory depends neither on the number of grid cells nor on the number of candidates. Candidates that
cannot enter the best `nms_pre` any more are not computed at all: a mask score is at most one.
"""

from dataclasses import dataclass

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


class MaskSource:
    """Masks of one image's cells at stride 4, computed on demand.

    The factors of the decoupled heads belong to columns and rows and are few: each level's are computed once, when
    its first mask is asked for. The masks of SOLO's cells are computed anew each time.

    Args:
        head: the detector's head.
        features: per level, the image's last hidden maps (each (F, h, w)); None where no cell is wanted.
        size: height and width of the stride-4 grid.
    """

    def __init__(self, head: GridHead, features: list[MaskFeatures | None], size: tuple[int, int]) -> None:
        self.head, self.features, self.size = head, features, size
        self.lines: dict[int, list[Tensor]] = {}

    def __call__(self, levels: Tensor, cells: Tensor) -> Tensor:
        """Probabilities of the cells' masks: (n, *size) float32, in the order given."""
        masks = torch.empty(len(cells), *self.size, device=cells.device)
        for level, features in enumerate(self.features):
            rows = (levels == level).nonzero()[:, 0]
            if len(rows) and features is not None:
                factors = self.factors(level, features, cells[rows])
                masks[rows] = factors[0] if len(factors) == 1 else factors[0] * factors[1]
        return masks

    def factors(self, level: int, features: MaskFeatures, cells: Tensor) -> list[Tensor]:
        """The factors of the masks, (n, *size) each, resized after the sigmoid as in the reference."""
        if not self.head.by_lines:
            return [self.resized(maps.logits)[maps.cells] for maps in self.head.mask_maps(level, features, cells)]
        size = self.head.grid_sizes[level]
        if level not in self.lines:
            diagonal = torch.arange(size, device=cells.device) * (size + 1)  # one cell of every column and row
            self.lines[level] = [self.resized(maps.logits) for maps in self.head.mask_maps(level, features, diagonal)]
        columns, rows = self.lines[level]
        return [columns[cells % size], rows[cells // size]]

    def resized(self, logits: Tensor) -> Tensor:
        """(u, h, w) logits to (u, *size) float32 probabilities."""
        maps = logits.float().sigmoid()
        return maps if maps.shape[1:] == self.size else F.interpolate(maps[None], size=self.size, mode="bilinear")[0]


def select(candidates: Candidates, source: MaskSource, strides: tuple[int, ...], test: Test) -> Instances:
    """Score the candidates' masks, run Matrix NMS and return what survives.

    Args:
        candidates: best first.
        source: gives masks at stride 4.
        strides: of the five levels; a mask must cover more pixels than its level's stride.
        test: thresholds, kernel and chunk.
    """
    limits = torch.tensor(strides, device=candidates.scores.device)[candidates.levels]
    bits: list[Tensor] = []
    areas: list[Tensor] = []
    scores: list[Tensor] = []
    rows: list[Tensor] = []
    for start in range(0, len(candidates.scores), test.chunk):
        part = slice(start, start + test.chunk)
        if _cannot_enter(candidates.scores[start], scores, test.nms_pre):
            break
        masks = source(candidates.levels[part], candidates.cells[part])
        binary = masks > test.mask_threshold
        area = binary.sum((1, 2)).float()
        maskness = (masks * binary).sum((1, 2)) / area
        kept = (area > limits[part]).nonzero()[:, 0]
        bits.append(binary[kept])
        areas.append(area[kept])
        scores.append((candidates.scores[part] * maskness)[kept])
        rows.append(kept + start)
    if not rows or not sum(map(len, rows)):
        return Instances(candidates.scores[:0], candidates.labels[:0], torch.zeros(0, *source.size))
    row = torch.cat(rows)
    final, order = matrix_nms(
        torch.cat(bits),
        candidates.labels[row],
        torch.cat(scores),
        torch.cat(areas),
        test.nms_pre,
        test.max_per_image,
        test.nms_kernel,
        test.nms_sigma,
        test.update_threshold,
    )
    winners = row[order]
    return Instances(final, candidates.labels[winners], source(candidates.levels[winners], candidates.cells[winners]))


def _cannot_enter(best_left: Tensor, scores: list[Tensor], nms_pre: int) -> bool:
    """Whether `nms_pre` candidates already score above anything that is left."""
    done = torch.cat(scores) if scores else best_left[None][:0]
    return len(done) >= nms_pre and bool(done.topk(nms_pre).values[-1] > best_left)
