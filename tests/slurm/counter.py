"""A stand-in for a training: counts to a goal, a step every tenth of a second, and keeps its place on disk.

    python counter.py GOAL STATE TRACE [CHECKPOINT_EVERY]

Every step is a line in TRACE. USR2 or TERM: save and exit 75. Started again, it continues from STATE.
"""

import signal
import sys
import time
from pathlib import Path

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


def save(state: Path, step: int) -> None:
    temporary = state.with_suffix(".new")
    temporary.write_text(str(step))
    temporary.replace(state)


def main(goal: int, state: Path, trace: Path, every: int = 1_000_000) -> int:
    for signum in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(signum, stop)
    step = int(state.read_text()) if state.exists() else 0
    with trace.open("a", buffering=1) as lines:
        print(f"start {step}", file=lines)
        while step < goal:
            time.sleep(0.1)
            step += 1
            print(step, file=lines)
            if stopping or step % every == 0:
                save(state, step)
            if stopping:
                return 75
    return 0


if __name__ == "__main__":
    goal, state, trace, *every = sys.argv[1:]
    sys.exit(main(int(goal), Path(state), Path(trace), *map(int, every)))
