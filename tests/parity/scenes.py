"""Random images with objects, anew for every seed; the generators are those of the golden vectors."""

import numpy as np

from tests.golden import synth

KINDS = ("rect", "rect*", "ellipse", "ellipse*", "poly", "poly*", "tiny", "thin", "huge", "border", "two", "ring")
Truth = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, objects: int, short: int = 128, long: int = 192) -> tuple[np.ndarray, Truth]:
    """An image (h, w, 3) uint8 B G R with sides in short..long, and (masks, boxes, labels) of its objects."""
    height, width = (int(side) for side in rng.integers(short, long, 2, endpoint=True))
    key = int(rng.integers(2**31))
    kinds = [str(kind) for kind in rng.choice(KINDS, objects)]
    return synth.image(height, width, key), synth.instances(height, width, kinds, key)


def batch(rng: np.random.Generator, objects: tuple[int, ...], **sides: int) -> tuple[list[np.ndarray], list[Truth]]:
    """Images with the given numbers of objects."""
    drawn = [draw(rng, count, **sides) for count in objects]
    return [image for image, _ in drawn], [truth for _, truth in drawn]
