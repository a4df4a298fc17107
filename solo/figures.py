"""The report's figures for one suite: which curves, bars and published marks are drawn, and what their captions say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from solo import plots
from solo.artifacts import read_jsonl
from solo.compare import Quantity, Row
from solo.ledger import METAFILE, SOURCES, Figure, Ledger

LOSSES = (("loss", "total loss"), ("loss_mask", "mask loss"), ("loss_category", "category loss"))
SIZES = (("AP", "all"), ("APs", "small"), ("APm", "medium"), ("APl", "large"))
GLYPHS = {"D": "◇", "^": "△", "o": "○", "s": "□"}
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Drawn:
    """An SVG element with its caption."""

    body: Markup
    caption: str


def read_curves(folders: Mapping[tuple[str, int], Path]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """metrics.jsonl of every run folder that has one, by (model, seed)."""
    return {
        key: read_jsonl(path / "metrics.jsonl") for key, path in folders.items() if (path / "metrics.jsonl").exists()
    }


def training(suite: str, curves: Mapping[tuple[str, int], Lines]) -> list[Drawn]:
    """Loss curves, then AP on the validation split; nothing where no run left a curve."""
    losses = [(title, _series(curves, "train", key)) for key, title in LOSSES]
    scores = [(title, _series(curves, "val", key)) for key, title in (("AP", "mask AP (%)"), ("AP50", "mask AP50 (%)"))]
    drawn = []
    if any(lines for _, lines in losses):
        body = plots.curves(f"loss-{suite}", f"Loss curves of suite {suite}", losses)
        note = f"Mean losses over optimizer steps; a curve of more than {plots.POINTS} points is shown by means."
        drawn.append(Drawn(Markup(body), note))
    if any(lines for _, lines in scores):
        body = plots.curves(f"ap-{suite}", f"Validation AP of suite {suite} over training", scores, dots=True)
        drawn.append(
            Drawn(Markup(body), "Mask AP on the validation split during training; the last epoch is the result.")
        )
    return drawn


def _series(curves: Mapping[tuple[str, int], Lines], kind: str, key: str) -> list[plots.Curve]:
    found = []
    for (model, _), lines in curves.items():
        chosen = [line for line in lines if line["kind"] == kind and line.get(key) is not None]
        if chosen:
            found.append(plots.Curve(model, [line["step"] for line in chosen], [line[key] for line in chosen]))
    return found


def sizes(suite: str, rows: Sequence[Row]) -> Drawn | None:
    """AP by object size, one bar per measured model; the mean over seeds."""
    measured = [row for row in rows if row.records]
    if not measured:
        return None
    bars = [(row.model.id, [row.mean(name) for name, _ in SIZES]) for row in measured]
    body = plots.size_bars(f"size-{suite}", f"Mask AP by object size, suite {suite}", bars, [t for _, t in SIZES])
    caption = (
        "Mask AP by object size (small below 32², medium below 96² pixels). No published figures by size in the ledger."
    )
    return Drawn(Markup(body), caption)


def speed(suite: str, rows: Sequence[Row], ledger: Ledger) -> list[Drawn]:
    """Measured fps; published marks on the bars where both are comparable GPU figures, apart where not."""
    return _beside(
        f"speed-{suite}", "Inference speed", "images per second", rows, lambda row: row.speed,
        lambda row: [(f.source, f.fps) for f in _trusted(row, ledger)],
    )  # fmt: skip


def memory(suite: str, rows: Sequence[Row], ledger: Ledger) -> list[Drawn]:
    """Measured training memory, in the same manner."""
    return _beside(
        f"memory-{suite}", "Training memory", "GB", rows, lambda row: row.memory,
        lambda row: [(f.source, f.value) for f in ledger.of(row.model.id, "train_memory", "model_card")],
    )  # fmt: skip


def _trusted(row: Row, ledger: Ledger) -> list[Figure]:
    """Published speeds whose unit is not in doubt: all but the model card's column."""
    return [
        f for f in ledger.of(row.model.id, "inference_time") if f.source in (METAFILE, "mmdet_readme", "author_readme")
    ]


def _beside(
    name: str,
    title: str,
    unit: str,
    rows: Sequence[Row],
    quantity: Callable[[Row], Quantity],
    marks: Callable[[Row], list[tuple[str, float]]],
) -> list[Drawn]:
    measured = [row for row in rows if quantity(row).value is not None]
    comparable = bool(measured) and all(quantity(row).difference is not None for row in measured)
    glyphs = "; ".join(
        f"{GLYPHS[plots.MARKS[source]]} {SOURCES[source]}"
        for source in dict.fromkeys(source for row in rows for source, _ in marks(row))
    )
    drawn = []
    if measured:
        bars = [_bar(row, quantity(row), marks(row) if comparable else []) for row in rows]
        how = "; ".join(dict.fromkeys(quantity(row).note for row in measured))
        caption = f"{title}, measured: {how}."
        caption += f" Published (V100): {glyphs}." if comparable else ""
        drawn.append(Drawn(Markup(plots.bars(name, f"{title}, measured", bars, unit)), caption))
    if not comparable:
        bars = [plots.Bar(_label(row), plots.OTHER, None, None, marks(row)) for row in rows]
        body = plots.bars(f"{name}-published", f"{title}, published", bars, unit)
        drawn.append(
            Drawn(Markup(body), f"{title}, published for a V100: {glyphs}. Shown apart: not comparable with ours.")
        )
    return drawn


def _bar(row: Row, quantity: Quantity, marks: list[tuple[str, float]]) -> plots.Bar:
    return plots.Bar(_label(row), plots.color(row.model.id), quantity.value, quantity.deviation, marks)


def _label(row: Row) -> str:
    return f"{row.model.title} {row.model.schedule}"
