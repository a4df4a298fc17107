"""Tables and pages as text: one View, shown alike as Markdown and HTML, and CSV beside it."""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

MISSING = "–"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass
class Cell:
    """Text of one table cell and the numbers of its footnotes."""

    text: str
    notes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """One column; neighbours of one `group` stand under its title."""

    name: str
    group: str = ""

    @property
    def title(self) -> str:
        """The name with its group, for formats with one header line."""
        return f"{self.group} {self.name}".strip()


@dataclass
class View:
    """The table as text: one line of cells per row, footnotes, protocol lines and sources; every format shows it."""

    columns: list[Column]
    lines: list[list[Cell]] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    protocols: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def cell(self, text: str, *notes: str) -> Cell:
        """A cell whose `notes` become footnotes, each text once."""
        numbers = []
        for note in filter(None, notes):
            if note not in self.footnotes:
                self.footnotes.append(note)
            numbers.append(self.footnotes.index(note) + 1)
        return Cell(text, sorted(numbers))

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Group titles from left to right with the number of their columns."""
        return [(group, len(list(members))) for group, members in itertools.groupby(c.group for c in self.columns)]

    def css(self, index: int) -> str:
        """Style classes of column `index`: where a group starts, ours, numbers."""
        column = self.columns[index]
        starts = column.group and (index == 0 or self.columns[index - 1].group != column.group)
        own = column.name if column.name in ("ours", "published") else ""
        names = (("start", starts), (own, own), ("number", column.group))
        return " ".join(name for name, holds in names if holds)


def signed(difference: float | None) -> str:
    """A difference with its sign and one decimal; a dash where there is none."""
    return MISSING if difference is None else f"{difference:+.1f}".replace("-", "−")


def markdown(table: View, title: str) -> str:
    """The view as a Markdown page: table, protocol of each row, remarks, footnotes."""
    names = [column.title for column in table.columns]
    lines = [f"# {title}", "", _markdown_line(names), _markdown_line(["---"] * len(names))]
    for row in table.lines:
        lines.append(_markdown_line([c.text + "".join(f"[^{n}]" for n in c.notes) for c in row]))
    lines += ["", "Protocol of each row:", "", *(f"- `{where}`: {text}" for where, text in table.protocols)]
    if table.remarks:
        lines += ["", *(f"- {text}" for text in table.remarks)]
    lines.append("")
    lines += [f"[^{number}]: {text}" for number, text in enumerate(table.footnotes, start=1)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def page(template: str, **values: Any) -> str:
    """A template of solo/templates filled with `values`; text is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)
