"""`make table`, interrupted at random moments and typed again, beside the result of an undisturbed run.

    python -m tests.chaos.interrupt_table --undisturbed results/smoke [--times 5] [--seed N]

Works in a fresh clone of this repository's HEAD, whose environment is this one.
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.chaos.compare import differences, summary

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Command line; 1 where the results differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--undisturbed", type=Path, required=True, help="results folder of a run without interruptions")
    parser.add_argument("--times", type=int, default=5, help="interruptions, SIGINT and SIGKILL in turn")
    parser.add_argument("--longest", type=float, default=150, help="longest time to the next interruption, seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (clone / ".venv").symlink_to(ROOT / ".venv")
        os.utime(clone / "pyproject.toml", (0, 0))  # older than what is installed, so that make installs nothing
        log = (Path(folder) / "log").open("w")
        for number in range(args.times):
            seconds = rng.uniform(5, args.longest)
            process = subprocess.Popen(["make", "table"], cwd=clone, stdout=log, stderr=log, start_new_session=True)
            try:
                process.wait(seconds)
                print("the table was there before the interruption", flush=True)
            except subprocess.TimeoutExpired:
                name = interrupt(process, signal.SIGKILL if number % 2 else signal.SIGINT)
                steps = [len(p.read_text().splitlines()) for p in clone.glob("results/smoke/*/seed0/throughput.jsonl")]
                print(f"{name} after {seconds:.0f} s; tens of steps in the curves: {steps}", flush=True)
        start = time.monotonic()
        subprocess.run(["make", "table"], cwd=clone, stdout=log, stderr=log, check=True)
        print(f"finished in {time.monotonic() - start:.0f} s more")
        print("\n".join(summary(clone / "results/smoke")))
        different = differences(args.undisturbed, clone / "results/smoke")
    print("equal to the undisturbed run" if not different else "DIFFERENT: " + ", ".join(different))
    return int(bool(different))


def interrupt(process: subprocess.Popen[bytes], number: signal.Signals) -> str:
    """Ctrl-C at the terminal, or the end of everything that `make` has started."""
    if number is signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)
    else:
        subprocess.run(["pkill", "-KILL", "--session", str(process.pid)], check=False)
    process.wait()
    return number.name


if __name__ == "__main__":
    raise SystemExit(main())
