"""Figures as SVG text: one colour per model, the page's own text colour, the same bytes for the same numbers."""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from solo.ledger import ZOO

# Okabe and Ito's palette: told apart with any colour vision, readable on white and on near-black.
COLORS = dict(zip((model.id for model in ZOO), ("#2f86c9", "#e69f00", "#12a37a", "#d9622b", "#c877ab"), strict=True))
OTHER = "#8a8f99"
INK = "#010203"  # stands for the page's text colour until the SVG is written
MARKS = {"mmdet_metafile": "D", "mmdet_readme": "^", "author_readme": "o", "model_card": "s"}
POINTS = 600  # of a curve, at most; more would not be seen at this width
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.7,
}
STANDALONE = "<style>@media (prefers-color-scheme: dark) { svg { color: #dde; } }</style>"


@dataclass(frozen=True)
class Curve:
    """One line: a model's figure over optimizer steps."""

    model: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Bar:
    """One measured value with its published marks (source of the ledger, value); either may be missing."""

    label: str
    color: str
    value: float | None
    deviation: float | None = None
    marks: Sequence[tuple[str, float]] = ()


def color(model: str) -> str:
    """The colour of a model in every figure; grey for a model that is not of the zoo."""
    return COLORS.get(model, OTHER)


def curves(name: str, label: str, panels: Sequence[tuple[str, Sequence[Curve]]], dots: bool = False) -> str:
    """Panels side by side, one line per run over optimizer steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(panels), 3.1), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for line in lines:
                steps, values = thin(line.steps, line.values)
                axes.plot(steps, values, color=color(line.model), lw=1.6, marker="o" if dots else None, ms=3.5)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel("optimizer steps")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        return svg(figure, name, label)


def thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most POINTS points: the mean of each of so many equal stretches, at the stretch's last step."""
    size = -(-len(steps) // POINTS) or 1
    groups = [range(i, min(i + size, len(steps))) for i in range(0, len(steps), size)]
    return [steps[g[-1]] for g in groups], [sum(values[i] for i in g) / len(g) for g in groups]


def size_bars(
    name: str, label: str, models: Sequence[tuple[str, Sequence[float | None]]], groups: Sequence[str]
) -> str:
    """Grouped bars: for every group one bar per model, its value written above."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.2), layout="constrained")
        axes = figure.subplots()
        width = 0.84 / max(len(models), 1)
        for rank, (model, values) in enumerate(models):
            for place, value in enumerate(values):
                x = place - 0.42 + (rank + 0.5) * width
                axes.bar(x, value or 0, width * 0.92, color=color(model))
                text = "–" if value is None else f"{value:.1f}"
                axes.annotate(text, (x, value or 0), (0, 3), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xticks(range(len(groups)), groups)
        axes.tick_params(axis="x", length=0)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("mask AP (%)")
        return svg(figure, name, label)


def bars(name: str, label: str, rows: Sequence[Bar], unit: str) -> str:
    """Horizontal bars with their value, and published figures as hollow marks by source."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.9 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        _draw_bars(axes, rows)
        axes.set_xlabel(unit)
        return svg(figure, name, label)


def _draw_bars(axes: Axes, rows: Sequence[Bar]) -> None:
    top = max((x for row in rows for x in (row.value or 0, *(value for _, value in row.marks))), default=0) or 1
    for place, row in enumerate(rows):
        if row.value is not None:
            axes.barh(place, row.value, 0.58, color=row.color, xerr=row.deviation, ecolor=INK)
            inside = row.value > 0.2 * top
            axes.annotate(
                f"{row.value:.1f}",
                (0 if inside else row.value, place),  # at the root: published marks lie about the bar's end
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color="white" if inside else INK,
                fontweight="bold",
            )
        elif not row.marks:
            axes.annotate("not measured", (0, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
        for source, value in row.marks:
            axes.plot(value, place, MARKS.get(source, "s"), mfc="none", mec=INK, mew=1.3, ms=7, clip_on=False)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.06 * top)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def points(name: str, label: str, panels: Sequence[tuple[str, Sequence[Bar]]], unit: str) -> str:
    """Panels one above the other: a dot per setting with its deviation, hollow where `marks` alone are given."""
    with mpl.rc_context(STYLE):
        heights = [max(len(rows), 1) for _, rows in panels]
        figure = Figure(figsize=(8.2, 0.42 * sum(heights) + 0.8 * len(panels)), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, rows) in zip(grid, panels, strict=True):
            for place, row in enumerate(rows):
                for value, hollow in [(row.value, False), *((v, True) for _, v in row.marks)]:
                    if value is not None:
                        face = "none" if hollow else row.color
                        edge = INK if hollow else row.color
                        axes.errorbar(
                            value, place, xerr=None if hollow else row.deviation, ecolor=INK,
                            marker="D" if hollow else "o", mfc=face, mec=edge, ms=7, capsize=3, lw=1,
                        )  # fmt: skip
                        axes.annotate(
                            f"{value:.1f}", (value, place), (0, 7), textcoords="offset points", ha="center", fontsize=8
                        )
            axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(row.label, 44)) for row in rows])
            axes.set_ylim(max(len(rows), 1) - 0.4, -0.7)
            axes.margins(x=0.12)
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel(unit)
        return svg(figure, name, label)


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an `<svg>` element that can stand many to a page.

    `name` makes ids unique and the bytes repeatable; `label` is read out by screen readers. Text stays text, and
    lines in INK take the colour of the page around them.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*|'?sans-serif'?", "sans-serif", body)
    return body.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def standalone(body: str) -> str:
    """An `<svg>` element as a file of its own, readable on a light and on a dark page."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + body.replace(">", f">{STANDALONE}", 1)
