"""An ablation's table and plot: every setting of a study beside the published points of that study.

    solo table --study workflow/config/ablations/grid.yaml --records ... --out-dir results/smoke/grid

The study file names the study (`name`), the model it starts from (`base`) and, in `published`, the studies of
results/published_ablations.csv to show; without `published`, the one of its own name. The records are the study's
runs; one that was shared with the zoo has no setting and goes by its model's name.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from solo import plots
from solo.artifacts import write_text
from solo.compare import NOT_MEASURED, Record, no_comparison, protocol, spread, unique
from solo.errors import UserError, unknown
from solo.ledger import number_of, read_rows
from solo.render import MISSING, Column, View, as_csv, markdown, page, signed

COLUMNS = ("ours", "published", "Δ to base", "APs", "APm", "APl", "Suite", "Source")
FIGURES = ("AP", "APs", "APm", "APl")


def write(file: Path, records: Sequence[Record], published: Path, folder: Path) -> None:
    """Write table.md, table.csv, table.html and ablation.svg of the study in `file` into `folder`."""
    study = read_study(file)
    points = read_points(study, published)
    measured = settings(records, study["base"])
    seen = view(measured, points, study["base"])
    title = f"Ablation study “{study['name']}” on {study['base']}"
    plot = _plot(title, measured, points)
    write_text(folder / "table.md", markdown(seen, title))
    write_text(folder / "table.csv", as_csv(_values(measured, points, study["name"])))
    write_text(folder / "table.html", page("table.html.j2", title=title, view=seen, plot=Markup(plot)))
    write_text(folder / "ablation.svg", plots.standalone(plot))
    print(f"{folder / 'table.md'}: {len(measured)} settings, {len(points)} published points")


def read_study(file: Path) -> dict[str, Any]:
    """The study file; raises UserError where it cannot be read or lacks `base`. `name` defaults to the file's."""
    try:
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(study, dict) or "base" not in study:
        raise UserError(f"{file} is no study: it needs `base`, the model id that the settings start from")
    return {"name": file.stem, **study}


def read_points(study: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The published points of a study, in the order of the ledger.

    Raises:
        UserError: `published` names a study that the ledger does not have.
    """
    rows = read_rows(path, ("study", "setting", "metric", "value", "source"))
    known = list(dict.fromkeys(row["study"] for row in rows))
    named = study.get("published")
    wanted = ([study["name"]] if study["name"] in known else []) if named is None else named
    for name in wanted:
        if name not in known:
            raise unknown("published study", name, known)
    return [{**row, "value": number_of(row["value"], str(path))} for row in rows if row["study"] in wanted]


def settings(records: Sequence[Record], base: str) -> list[dict[str, Any]]:
    """One entry per suite and setting, the base first: label, figures over the seeds, difference to the base."""
    ordered = sorted(unique(records), key=lambda r: (r["suite"], r["run"] != base, bool(r.get("setting")), r["run"]))
    entries: list[dict[str, Any]] = []
    for (suite, run), group in itertools.groupby(ordered, key=lambda r: (r["suite"], r["run"])):
        members = list(group)
        figures = {name: spread([r["metrics"]["metrics"][name] for r in members]) for name in FIGURES}
        entries.append(
            {
                "suite": suite,
                "run": run,
                "label": label(members[0]),
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


def label(record: Record) -> str:
    """A setting in words: `grid_sizes=[12, 12, 12, 12, 12]`; the model's name where nothing is overridden."""
    setting = record.get("setting") or {}
    if not setting:
        return str(record["model"])
    return ", ".join(f"{key.rpartition('.')[2]}={json.dumps(value)}" for key, value in setting.items())


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
