"""An ablation's table and plot: every setting of a study beside the published points of that study.

    solo table --study workflow/config/ablations/grid.yaml --records ... --out-dir results/smoke/grid

The records are the study's runs; they stand in the order of the study file.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from solo import plots
from solo.artifacts import write_text
from solo.compare import NOT_MEASURED, Record, no_comparison, protocol, spread, unique
from solo.ledger import number_of, read_rows
from solo.render import MISSING, Column, View, as_csv, markdown, page, signed
from solo.suite import Study, read_study, read_suite, run_name

COLUMNS = ("ours", "published", "Δ to base", "APs", "APm", "APl", "Suite", "Source")
FIGURES = ("AP", "APs", "APm", "APl")


def write(file: Path, records: Sequence[Record], published: Path, folder: Path) -> None:
    """Write table.md, table.csv, table.html and ablation.svg of the study in `file` into `folder`."""
    study = read_study(file)
    points = read_points(study, published)
    known = labels(study, {record["suite"] for record in records}, file.parent.parent)
    measured = settings(records, study.base, known)
    seen = view(measured, points, study.base)
    title = f"{study.title} ({study.base})"
    plot = _plot(title, measured, points)
    write_text(folder / "table.md", markdown(seen, title))
    write_text(folder / "table.csv", as_csv(_values(measured, points, study.name)))
    write_text(folder / "table.html", page("table.html.j2", title=title, view=seen, plot=Markup(plot)))
    write_text(folder / "ablation.svg", plots.standalone(plot))
    print(f"{folder / 'table.md'}: {len(measured)} settings, {len(points)} published points")


def read_points(study: Study, path: Path) -> list[dict[str, Any]]:
    """The published points of a study, in the order of the ledger; none where the ledger does not know the study."""
    rows = read_rows(path, ("study", "setting", "metric", "value", "source"))
    return [{**row, "value": number_of(row["value"], str(path))} for row in rows if row["study"] == study.name]


def settings(records: Sequence[Record], base: str, known: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """One entry per suite and setting, in the study's order: label, figures over the seeds, difference to the base."""
    place = {key: i for i, key in enumerate(known)}
    ordered = sorted(
        unique(records), key=lambda r: (r["suite"], place.get((r["suite"], r["run"]), len(place)), r["run"])
    )
    entries: list[dict[str, Any]] = []
    for (suite, run), group in itertools.groupby(ordered, key=lambda r: (r["suite"], r["run"])):
        members = list(group)
        figures = {name: spread([r["metrics"]["metrics"][name] for r in members]) for name in FIGURES}
        entries.append(
            {
                "suite": suite,
                "run": run,
                "label": label(members[0], known),
                "model": members[0]["model"],
                "seeds": [r["seed"] for r in members],
                "protocol": protocol(members[0]),
                "no_comparison": no_comparison(members[0]),
                **figures,
            }
        )
    bases = {entry["suite"]: entry["AP"][0] for entry in entries if entry["run"] == base}
    for entry in entries:
        mean, start = entry["AP"][0], bases.get(entry["suite"])
        entry["difference"] = None
        if mean is not None and start is not None and entry["run"] != base:
            entry["difference"] = round(round(mean, 1) - round(start, 1), 1)
    return entries


def labels(study: Study, suites: Iterable[str], config: Path) -> dict[tuple[str, str], str]:
    """Suite folder and run name to the label that the study file gives the setting.

    A setting that equals a zoo model is that model's run and carries no setting of its own.
    """
    result = {}
    for folder in suites:
        path = config / "suites" / f"{folder}.yaml"
        while not path.exists() and "-" in path.stem:  # a suite on data of one's own: <suite>-<data folder>
            path = path.with_name(f"{path.stem.rpartition('-')[0]}.yaml")
        if path.exists():
            suite = read_suite(path)
            for text, setting in study.settings(suite.name):
                result[folder, run_name(study.base, setting, suite, config / "zoo")] = text
    return result


def label(record: Record, known: dict[tuple[str, str], str]) -> str:
    """A setting in words: the study's label, else its overrides, else the model's name."""
    setting = record.get("setting") or {}
    words = ", ".join(f"{key.rpartition('.')[2]}={json.dumps(value)}" for key, value in setting.items())
    return known.get((record["suite"], record["run"])) or words or str(record["model"])


def view(measured: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], base: str) -> View:
    """The study's table: measured settings, then published points in a column of their own."""
    result = View([Column("Setting"), *(Column(name, "mask AP") for name in COLUMNS[:6]), *map(Column, COLUMNS[6:])])
    for entry in measured:
        reason = entry["no_comparison"]
        note = f"Not to be set beside published points: {reason}." if reason else ""
        sizes = [MISSING if entry[name][0] is None else f"{entry[name][0]:.1f}" for name in FIGURES[1:]]
        difference = signed(entry["difference"])
        result.lines.append(
            [
                result.cell(entry["label"]),
                result.cell(_text(entry["AP"]), note),
                *map(
                    result.cell,
                    (MISSING, "base" if entry["run"] == base else difference, *sizes, entry["suite"], MISSING),
                ),
            ]
        )
        result.protocols.append((f"{entry['run']}, {entry['suite']}", entry["protocol"]))
    for point in points:
        is_difference = point["metric"].endswith("_difference")
        value = signed(point["value"]) if is_difference else f"{point['value']:.1f}"
        texts = (MISSING, MISSING if is_difference else value, value if is_difference else MISSING, *[MISSING] * 3)
        result.lines.append(
            [
                result.cell(point["setting"]),
                *map(result.cell, texts),
                result.cell("published"),
                result.cell(point["source"], point.get("note") or ""),
            ]
        )
    if base not in {entry["run"] for entry in measured}:
        result.remarks.append(f"The base {base} is {NOT_MEASURED}: no differences.")
    return result


def _text(figure: tuple[float | None, float | None, int]) -> str:
    mean, deviation, count = figure
    if mean is None:
        return MISSING
    return f"{mean:.1f}" + (f" ± {deviation:.1f} (n = {count})" if deviation is not None else "")


def _plot(title: str, measured: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]]) -> str:
    ours = [plots.Bar(e["label"], plots.color(e["model"]), e["AP"][0], e["AP"][1]) for e in measured]
    theirs = [
        plots.Bar(p["setting"], plots.OTHER, None, marks=[("published", p["value"])])
        for p in points
        if p["metric"] == "mask_ap"
    ]
    suites = ", ".join(sorted({e["suite"] for e in measured})) or NOT_MEASURED
    panels = [(f"measured ({suites})", ours), ("published", theirs)]
    return plots.points("ablation", title, [panel for panel in panels if panel[1]] or panels[:1], "mask AP (%)")


def _values(measured: Sequence[dict[str, Any]], points: Sequence[dict[str, Any]], study: str) -> list[dict[str, Any]]:
    empty = dict.fromkeys(
        (
            "study",
            "setting",
            "suite",
            "run",
            "metric",
            *FIGURES,
            "AP_sd",
            "difference_to_base",
            "seeds",
            "source",
            "note",
        )
    )
    ours = [
        {
            **empty,
            "study": study,
            "setting": entry["label"],
            "suite": entry["suite"],
            "run": entry["run"],
            "metric": "mask_ap",
            **{name: None if entry[name][0] is None else round(entry[name][0], 4) for name in FIGURES},
            "AP_sd": None if entry["AP"][1] is None else round(entry["AP"][1], 4),
            "difference_to_base": entry["difference"],
            "seeds": " ".join(map(str, entry["seeds"])),
            "source": "measured",
            "note": entry["no_comparison"],
        }
        for entry in measured
    ]
    theirs = [
        {
            **empty,
            **{key: point.get(key) for key in ("study", "setting", "metric", "source", "note")},
            "suite": "published",
            "difference_to_base" if point["metric"].endswith("_difference") else "AP": point["value"],
        }
        for point in points
    ]
    return ours + theirs
