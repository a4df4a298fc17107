"""The published numbers: every figure with its unit, source and protocol, and where they contradict each other.

    ledger = Ledger.read("results/published.csv")
    ledger.figure("solo_r50_1x", "inference_time", "mmdet_metafile").fps    # 10.5: 95.1 ms per image

Nothing is averaged or corrected here: a figure is kept as it is printed, and converted only by its own unit.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from solo.errors import UserError, unknown


@dataclass(frozen=True)
class ZooModel:
    """One row of the model card: the columns that describe it."""

    id: str
    title: str
    schedule: str
    multi_scale: str
    epochs: int
    short_side: int  # of the test images, pixels, before padding
    backbone: str = "R-50"
    style: str = "pytorch"


ZOO: tuple[ZooModel, ...] = (
    ZooModel("solo_r50_1x", "SOLO", "1x", "N", 12, 800),
    ZooModel("solo_r50_3x", "SOLO", "3x", "Y", 36, 800),
    ZooModel("decoupled_solo_r50_1x", "Decoupled SOLO", "1x", "N", 12, 800),
    ZooModel("decoupled_solo_r50_3x", "Decoupled SOLO", "3x", "Y", 36, 800),
    ZooModel("decoupled_solo_light_r50_3x", "Decoupled Light SOLO", "3x", "Y", 36, 512),
)
SOURCES = {
    "model_card": "the model card",
    "mmdet_metafile": "mmdetection's metafile.yml",
    "mmdet_readme": "mmdetection's README",
    "author_readme": "the authors' README",
}
CARD = "model_card"
METAFILE = "mmdet_metafile"
TEXTS = ("model", "metric", "unit", "source", "revision", "protocol", "note")


@dataclass(frozen=True)
class Figure:
    """One published number, as printed."""

    model: str
    metric: str  # mask_ap, train_memory, inference_time
    value: float
    printed: str  # the value's own digits
    unit: str  # percent, GB, fps, ms/image
    source: str
    revision: str
    protocol: str
    note: str

    @property
    def fps(self) -> float:
        """An inference time as images per second, by the printed unit."""
        return self.value if self.unit == "fps" else 1000 / self.value

    @property
    def origin(self) -> str:
        """The source in words, with its revision."""
        return f"{SOURCES.get(self.source, self.source)} ({self.revision})"


class Ledger:
    """The figures of results/published.csv, in the order of the file."""

    def __init__(self, figures: Iterable[Figure]):
        self.figures = tuple(figures)

    @classmethod
    def read(cls, path: str | Path) -> "Ledger":
        """Read the ledger.

        Raises:
            UserError: the file is missing, a column is missing, a value is no number or a unit is unknown.
        """
        figures = []
        for number, row in enumerate(read_rows(path, ("model", "metric", "value", "unit", "source")), start=2):
            figure = Figure(
                **{name: row.get(name) or "" for name in TEXTS},
                value=number_of(row["value"], f"{path}, line {number}"),
                printed=row["value"],
            )
            if figure.unit not in ("percent", "GB", "fps", "ms/image"):
                raise unknown(f"unit in {path}, line {number}:", figure.unit, ("percent", "GB", "fps", "ms/image"))
            figures.append(figure)
        return cls(figures)

    def figure(self, model: str, metric: str, source: str) -> Figure | None:
        """The figure of one source, or None where it has none."""
        return next(iter(self.of(model, metric, source)), None)

    def of(self, model: str, metric: str, source: str | None = None) -> list[Figure]:
        """Every figure for a model's metric, in the order of the file."""
        return [f for f in self.figures if (f.model, f.metric) == (model, metric) and source in (None, f.source)]

    def contradictions(self, model: str, metric: str) -> list[str]:
        """Sentences on the figures that disagree with the model card's, or whose unit is in doubt."""
        card = self.figure(model, metric, CARD)
        others = [f for f in self.of(model, metric) if f is not card]
        if card is None or not others:
            return []
        if metric == "inference_time":
            return _time_contradictions(card, others)
        different = [f for f in others if f.value != card.value]
        if not different:
            return []
        what = {"mask_ap": "mask AP", "train_memory": "memory"}[metric]
        listed = "; ".join(f"{f.origin} says {f.printed}" for f in different)
        return [f"Published {what} differs by source: {card.origin} says {card.printed}; {listed}."]


def _time_contradictions(card: Figure, others: list[Figure]) -> list[str]:
    sentences = []
    twin = next((f for f in others if f.unit != card.unit and f.value == card.value), None)
    if twin:
        sentences.append(
            f"{card.origin.capitalize()} prints {card.printed} {card.unit}; {twin.origin} has the same number as "
            f"{twin.unit}, which is {twin.fps:.1f} fps: the card's unit is in doubt."
        )
    rates = "; ".join(
        f"{f.origin}: {f.printed} {f.unit}" + ("" if f.unit == "fps" else f" = {f.fps:.1f} fps")
        for f in ([] if twin else [card]) + others
    )
    sentences.append(f"Published speeds disagree: {rates}.")
    return sentences


def read_rows(path: str | Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; raises UserError where it cannot be read or lacks a column."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
    return rows


def number_of(text: str, where: str) -> float:
    """`text` as a number; raises UserError naming `where` it stands."""
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is no number") from None
