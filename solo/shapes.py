"""Drawn scenes of the synthetic data set: shapes over a textured background, by integer arithmetic only.

Every random number is a bounded integer of numpy's frozen `RandomState` stream and every step after it is
exact, so a scene is the same array of bytes on every platform and numpy version.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Ids with gaps, as COCO's own: code that takes an id for an index fails here and not on the real data.
CATEGORIES: dict[int, str] = {1: "disc", 2: "square", 4: "triangle"}
BACKGROUND = -1

_SUB = 16  # sub-pixel units per pixel
_TURN = 240  # angle steps per turn, divisible by the 3, 4, 5 and 10 corners of the shapes
_UNIT = 1 << 14  # length of a direction vector
# Rounded to 14 bits: a libm that differs in the last of 53 bits gives the same table.
_DIRECTIONS = [
    (round(math.cos(math.tau * step / _TURN) * _UNIT), round(math.sin(math.tau * step / _TURN) * _UNIT))
    for step in range(_TURN)
]
_VISIBLE_PERCENT = 60  # of a whole shape, beyond the image's edge included
_LARGE_VISIBLE_PERCENT = 85  # so that a disc or square drawn over 96² pixels stays over 96²
_TYPICAL_PERCENT = 85  # of the objects that have their category's colour
_TYPICAL_COLOURS = {
    "disc": (40, 60, 215),
    "square": (215, 130, 40),
    "triangle": (40, 195, 215),
}  # BGR
_TRIES = 12  # positions tried before a shape is left out

IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """One shape: its category name, centre (x, y) and extent (its width at angle 0) in pixels, angle in 1/240 turn."""

    kind: str
    x: int
    y: int
    extent: int
    angle: int


@dataclass
class Scene:
    """An image with its objects in painter's order.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        owner: (H, W) int64, index of the object seen at a pixel, -1 for background.
        objects: per object (category name, whether it is a crowd).
    """

    image: NDArray[np.uint8]
    owner: IntArray
    objects: list[tuple[str, bool]] = field(default_factory=list)

    def visible(self, index: int) -> Mask:
        """The pixels where object `index` is seen: (H, W) bool."""
        return np.asarray(self.owner == index)


def draw_scene(rng: np.random.RandomState, width: int, height: int, *, objects: int, crowd: bool = False) -> Scene:
    """Draw one scene.

    Args:
        rng: source of all randomness.
        width, height: image size in pixels, at least 48 each.
        objects: shapes to place; one that fits nowhere without hiding another is left out.
        crowd: also place a group of many small shapes of one class, as one object marked as a crowd.
    """
    base, image = _background(rng, width, height)
    scene = _Painter(rng, image, base)
    if crowd:
        scene.add_crowd()
    for kind, extent in _cast(rng, min(width, height), objects):
        scene.add(kind, extent)
    softened = _soften(scene.image) + _integers(rng, -5, 6, (height, width, 3))
    return Scene(np.clip(softened, 0, 255).astype(np.uint8), scene.owner, scene.objects)


def shape_mask(shape: Shape, width: int, height: int) -> tuple[Mask, int]:
    """The pixels whose centre lies inside a shape.

    Returns:
        mask: (height, width) bool, cut at the image's edge.
        whole: area in pixels before that cut.
    """
    reach = shape.extent * 3 // 4 + 2
    steps = np.arange(-reach, reach + 1, dtype=np.int64) * _SUB
    inside = _inside(shape, steps[None, :], steps[:, None])
    left, top = shape.x - reach, shape.y - reach
    mask = np.zeros((height, width), dtype=bool)
    x0, x1 = max(left, 0), min(left + len(steps), width)
    y0, y1 = max(top, 0), min(top + len(steps), height)
    if x0 < x1 and y0 < y1:
        mask[y0:y1, x0:x1] = inside[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask, int(inside.sum())


def _inside(shape: Shape, x: IntArray, y: IntArray) -> Mask:
    """Inside test at offsets from the centre in 1/16 pixel: x (1, N), y (N, 1) -> (N, N) bool."""
    diameter = shape.extent * _SUB
    if shape.kind == "disc":
        return np.asarray(4 * (x * x + y * y) <= diameter * diameter)
    # Circumradii that make each polygon about one extent wide: 1/√2 and 1/√3.
    if shape.kind == "square":
        corners = _ring_of_points(diameter * 7071 // 10000, 4, shape.angle + _TURN // 8)
    else:
        corners = _ring_of_points(diameter * 5774 // 10000, 3, shape.angle - _TURN // 4)
    return _even_odd(corners, x, y)


def _ring_of_points(radius: int, count: int, angle: int) -> list[tuple[int, int]]:
    directions = (_DIRECTIONS[(angle + step * _TURN // count) % _TURN] for step in range(count))
    return [(radius * dx // _UNIT, radius * dy // _UNIT) for dx, dy in directions]


def _even_odd(corners: list[tuple[int, int]], x: IntArray, y: IntArray) -> Mask:
    """Whether a ray to the right crosses the polygon's outline an odd number of times."""
    inside = np.zeros((y.size, x.size), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        spans = (y1 <= y) != (y2 <= y)
        side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
        inside ^= spans & ((side > 0) == (y2 > y1))
    return inside


def _cast(rng: np.random.RandomState, side: int, count: int) -> list[tuple[str, int]]:
    """Kinds and extents of the shapes of one scene; most scenes have the large ones at the back."""
    kinds = list(CATEGORIES.values())
    cast = []
    for _ in range(count):
        draw = _integer(rng, 100)
        kind = kinds[_integer(rng, len(kinds))]
        if draw < 8:
            low, high = 170, 250  # COCO's small, under 32² pixels at the default size
        elif draw < 80 or kind == "triangle":
            low, high = 340, 700
        else:
            low, high = 910, 970
        cast.append((kind, side * (low + _integer(rng, high - low + 1)) // 1000))
    if _integer(rng, 4):
        cast.sort(key=lambda shape: -shape[1])
    return cast


class _Painter:
    """A scene in the making: places shapes where none before them is hidden too far."""

    def __init__(self, rng: np.random.RandomState, image: IntArray, base: IntArray) -> None:
        self.rng = rng
        self.image = image
        self.height, self.width = image.shape[:2]
        self.owner: IntArray = np.full((self.height, self.width), BACKGROUND, dtype=np.int64)
        self.objects: list[tuple[str, bool]] = []
        self.colours = [base]
        self.needed: list[int] = []  # pixels of each object that have to stay visible
        self.centres: list[tuple[int, int]] = []

    def add(self, kind: str, extent: int) -> None:
        for _ in range(_TRIES):
            shape = self._place(kind, extent)
            mask, whole = shape_mask(shape, self.width, self.height)
            percent = _LARGE_VISIBLE_PERCENT if self._is_large(extent) else _VISIBLE_PERCENT
            needed = whole * percent // 100
            if mask.sum() >= needed and self._keeps_apart(shape) and self._keeps_visible(mask):
                self._own(mask, needed, shape, crowd=False)
                self._paint(shape, mask, self._colour(kind))
                return

    def add_crowd(self) -> None:
        kinds = list(CATEGORIES.values())
        kind = kinds[_integer(self.rng, len(kinds))]
        colour = self._colour(kind)
        side = min(self.width, self.height)
        spread, member = side // 4, side // 8
        x = spread + _integer(self.rng, self.width - 2 * spread)
        y = spread + _integer(self.rng, self.height - 2 * spread)
        union = np.zeros_like(self.owner, dtype=bool)
        for _ in range(9 + _integer(self.rng, 6)):
            at = (x + _centred(self.rng, spread), y + _centred(self.rng, spread))
            shape = Shape(kind, *at, member + _integer(self.rng, member // 2), _integer(self.rng, _TURN))
            mask, _ = shape_mask(shape, self.width, self.height)
            self._paint(shape, mask, np.clip(colour + _integers(self.rng, -25, 26, 3), 0, 255))
            union |= mask
        self._own(union, int(union.sum()) * _VISIBLE_PERCENT // 100, Shape(kind, x, y, spread, 0), crowd=True)

    def _place(self, kind: str, extent: int) -> Shape:
        """A random place; up to a quarter of the extent may lie beyond the image's edge, of a large one less."""
        margin = extent * 47 // 100 if self._is_large(extent) else extent // 4
        x = margin + _integer(self.rng, self.width - 2 * margin)
        y = margin + _integer(self.rng, self.height - 2 * margin)
        # A square keeps within 30° of upright; the others turn freely.
        angle = _centred(self.rng, 20) if kind == "square" else _integer(self.rng, _TURN)
        return Shape(kind, x, y, extent, angle % _TURN)

    def _is_large(self, extent: int) -> bool:
        return 10 * extent > 8 * min(self.width, self.height)

    def _keeps_apart(self, shape: Shape) -> bool:
        """No two centres within a twelfth of the image: a human could not tell them apart either."""
        apart = min(self.width, self.height) // 12
        return all((shape.x - x) ** 2 + (shape.y - y) ** 2 >= apart**2 for x, y in self.centres)

    def _keeps_visible(self, mask: Mask) -> bool:
        count = len(self.objects)
        seen = np.bincount(self.owner[~mask] + 1, minlength=count + 1)[1:]
        return all(seen[index] >= self.needed[index] for index in range(count))

    def _own(self, mask: Mask, needed: int, shape: Shape, *, crowd: bool) -> None:
        self.owner[mask] = len(self.objects)
        self.objects.append((shape.kind, crowd))
        self.needed.append(needed)
        self.centres.append((shape.x, shape.y))

    def _colour(self, kind: str) -> IntArray:
        """A saturated colour, of six the one farthest from those already in the scene: (3,) BGR.

        Categories have a typical colour, as most of those in photographs have a typical look; a few objects differ.
        """
        typical = _integer(self.rng, 100) < _TYPICAL_PERCENT
        best, farthest = self.colours[0], -1
        for _ in range(6):
            if typical:
                colour = np.clip(np.array(_TYPICAL_COLOURS[kind]) + _integers(self.rng, -40, 41, 3), 0, 255)
            else:
                channels = [190 + _integer(self.rng, 60), 10 + _integer(self.rng, 60), _integer(self.rng, 256)]
                turn, mirror = _integer(self.rng, 3), _integer(self.rng, 2)
                channels = channels[turn:] + channels[:turn]
                colour = np.array(channels[::-1] if mirror else channels, dtype=np.int64)
            distance = min(int(np.abs(colour - other).sum()) for other in self.colours)
            if distance > farthest:
                best, farthest = colour, distance
        self.colours.append(best)
        return best

    def _paint(self, shape: Shape, mask: Mask, colour: IntArray) -> None:
        """Fill a mask with a colour, a linear shade across it and faint stripes."""
        ys, xs = np.nonzero(mask)
        slope_x, slope_y = _centred(self.rng, 40), _centred(self.rng, 40)
        shade = ((xs - shape.x) * slope_x + (ys - shape.y) * slope_y) // max(shape.extent, 1)
        step_x, step_y, stripe = _integer(self.rng, 3), _integer(self.rng, 3), 4 + _integer(self.rng, 5)
        shade += ((xs * step_x + ys * step_y) // stripe % 2) * 14 - 7
        self.image[ys, xs] = np.clip(colour + shade[:, None], 0, 255)


def _background(rng: np.random.RandomState, width: int, height: int) -> tuple[IntArray, IntArray]:
    """A greyish colour (3,) and the texture around it with its distractors (H, W, 3)."""
    base = 70 + _integer(rng, 110) + _integers(rng, -18, 19, 3)
    coarse = _lattice_noise(rng, width, height, 32)[..., None] * _integers(rng, 10, 36, 3)
    fine = _lattice_noise(rng, width, height, 6)[..., None] * (6 + _integer(rng, 22))
    image = base + (coarse + fine) // 1024
    x, y = np.arange(width, dtype=np.int64)[None, :], np.arange(height, dtype=np.int64)[:, None]
    for _ in range(2 + _integer(rng, 5)):  # faint thin lines across the whole image
        a, b = _centred(rng, 16), _centred(rng, 16)
        off = a * (x - _integer(rng, width)) + b * (y - _integer(rng, height))
        image[np.abs(off) * 2 <= max(abs(a), abs(b)) * (1 + _integer(rng, 2))] += _integers(rng, -40, 41, 3)
    for _ in range(_integer(rng, 14)):  # specks too small for any class
        px, py, size = _integer(rng, width), _integer(rng, height), 1 + _integer(rng, 4)
        image[py : py + size, px : px + size] = _integers(rng, 0, 256, 3)
    return base, image


def _lattice_noise(rng: np.random.RandomState, width: int, height: int, cell: int) -> IntArray:
    """Random values at the corners of a lattice, bilinear between them: (H, W) in [-1024, 1024]."""
    corners = _integers(rng, -1024, 1025, (height // cell + 2, width // cell + 2))
    column, fx = np.divmod(np.arange(width), cell)
    row, fy = np.divmod(np.arange(height)[:, None], cell)
    upper = corners[row, column] * (cell - fx) + corners[row, column + 1] * fx
    lower = corners[row + 1, column] * (cell - fx) + corners[row + 1, column + 1] * fx
    return np.asarray((upper * (cell - fy) + lower * fy) // (cell * cell))


def _soften(image: IntArray) -> IntArray:
    """Binomial 3×3 blur, edges repeated: the step between two colours as a lens would leave it."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16)


def _integer(rng: np.random.RandomState, bound: int) -> int:
    """One integer in [0, bound)."""
    return int(rng.randint(0, bound, dtype=np.int64))


def _centred(rng: np.random.RandomState, reach: int) -> int:
    """One integer in [-reach, reach]."""
    return _integer(rng, 2 * reach + 1) - reach


def _integers(rng: np.random.RandomState, low: int, high: int, shape: int | tuple[int, ...]) -> IntArray:
    """Integers in [low, high); int64 by name, since the default's width depends on the platform."""
    return rng.randint(low, high, size=shape, dtype=np.int64)
