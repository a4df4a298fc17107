"""The curves of a run: lines of metrics.jsonl and throughput.jsonl that a crash neither loses nor doubles.

The lines up to a checkpoint are part of the checkpoint. A resumed run writes the files anew from there, whatever
happened to them meanwhile, so an interrupted run ends with the bytes of an uninterrupted one.
"""

import json
from pathlib import Path
from typing import Any

from solo.artifacts import write_text

FILES = ("metrics.jsonl", "throughput.jsonl")


class Journal:
    """Appends to the two files of a run directory.

    Args:
        folder: the run directory.
        earlier: the text of each file at the checkpoint that is resumed from.
        write: False for the processes that only follow.
    """

    def __init__(self, folder: Path, earlier: dict[str, str], write: bool = True) -> None:
        self.folder = folder
        self.text = {name: earlier.get(name, "") for name in FILES}
        for name in FILES if write else ():
            write_text(folder / name, self.text[name])

    def add(self, name: str, values: dict[str, Any]) -> None:
        """Append one line to the file `name`."""
        line = json.dumps(values) + "\n"
        self.text[name] += line
        with open(self.folder / name, "a", encoding="utf-8") as file:
            file.write(line)

    def evaluated(self, epoch: int) -> bool:
        """Whether the validation figures of an epoch are there."""
        return any(
            line["kind"] == "val" and line["epoch"] == epoch
            for line in map(json.loads, self.text[FILES[0]].splitlines())
        )


def last_step(folder: Path) -> int:
    """The last step that a run directory's throughput.jsonl tells of; 0 without one, a torn last line left out."""
    path = folder / "throughput.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0
