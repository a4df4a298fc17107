"""Put the table of results/smoke into README.md; `make readme` calls it.

python docs/readme.py
"""

from pathlib import Path

START, END = "<!-- table: written by `make readme` from results/smoke -->", "<!-- end of table -->"
COLUMNS = ("Model", "MS train", "Lr schd", "mask AP published", "mask AP ours", "Inf time (fps) ours", "Mem (GB) ours")


def main() -> None:
    """Replace what stands between the two marks."""
    table = Path("results/smoke/table.md").read_text(encoding="utf-8").splitlines()
    header, _, *rows = [
        [cell.split("[^")[0].strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")
    ]
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    for row in rows:
        cells = dict(zip((name.strip() for name in header), row, strict=True))
        lines.append("| " + " | ".join(cells[name] for name in COLUMNS) + " |")
    protocol = [line for line in table if line.startswith("- `smoke")]
    text = Path("README.md").read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    body = "\n".join(["", "", *lines, "", *protocol, "", ""])
    Path("README.md").write_text(before + START + body + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
