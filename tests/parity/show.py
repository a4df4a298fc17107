"""The table of the last parity run: section, model, largest observed error, tolerance.

python -m pytest tests/parity -m parity && python -m tests.parity.show
"""

import json

from tests.parity.ledger import RECORD, table


def main() -> int:
    """Print the table; 1 where a row is beyond its tolerance, 2 where nothing was recorded."""
    if not RECORD.exists():
        print(f"no {RECORD}; run `python -m pytest tests/parity -m parity` first")
        return 2
    rows = json.loads(RECORD.read_text())["rows"]
    print("\n".join(table(rows)))
    print("seeds: " + ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows})))
    return int(any(row["error"] is None or row["error"] > row["tolerance"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
