"""What 2,000 short jobs cost the main process, with stand-ins for SLURM's commands.

    python tests/slurm/bench_scale.py [--jobs 2000] [--at-once 500] [--seconds 20]

The stand-ins answer at once, so that the figures are those of Snakemake and of this plugin alone: CPU seconds of the
main process per job, in all and in the plugin's own code, and the number of calls of each SLURM command. A job "ends"
--seconds after its submission.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# One program under all names. It keeps arrays as `<id> <elements> <time>` lines and makes the outputs of those that
# have ended, which it finds in the commands that were submitted.
STAND_IN = """\
#!{python} -SE
import os, re, sys, time
name, home, seconds = os.path.basename(sys.argv[0]), "{home}", {seconds}
with open(home + "/calls", "a") as calls:
    calls.write(name + "\\n")
if name == "sbatch":
    script = open(sys.argv[1]).read()
    found = re.search(r"--array='?0-([0-9]+)", script)
    number = sum(1 for _ in open(home + "/arrays")) + 1000
    with open(home + "/arrays", "a") as arrays:
        arrays.write("%d %d %f\\n" % (number, int(found.group(1)) + 1 if found else 0, time.time()))
    print("Submitted batch job", number)
elif name == "sacct":
    for line in open(home + "/arrays"):
        number, elements, submitted = line.split()
        ended = time.time() - float(submitted) > seconds
        ids = ["%s_%d" % (number, i) for i in range(int(elements))] or [number]
        marker = home + "/ended-" + number
        if ended and not os.path.exists(marker):
            for job in ids:
                command = open("{logs}/%s_submitted.pkl" % job, "rb").read()
                open("out/" + re.search(rb"short:i=([0-9]+)", command).group(1).decode(), "w").close()
            open(marker, "w").close()
        state = "COMPLETED" if ended else "RUNNING"
        for job in ids:
            print(job + "|" + state + "|0:0|n1|2026-01-01T00:00:00|2026-01-01T00:00:01|5||")
elif name == "scontrol":
    print("MaxArraySize = 1001")
elif name == "sinfo":
    print("main*|infinite|(null)")
"""

SNAKEFILE = """\
rule all:
    input: expand("out/{{i}}", i=range({jobs}))
rule short:
    output: "out/{{i}}"
    shell: "touch {{output}}"
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--poll-seconds", type=float, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare(Path(folder), arguments.jobs, arguments.seconds)
        own = meter_plugin()
        began, before = time.monotonic(), cpu_seconds()
        status = run_snakemake(arguments.at_once, arguments.poll_seconds)
        elapsed, used = time.monotonic() - began, cpu_seconds() - before
        made = len(os.listdir("out"))
        calls = collections.Counter(Path("commands/calls").read_text().split())
    print(f"{made} of {arguments.jobs} jobs done in {elapsed:.0f} s, {arguments.at_once} at once, status {status}")
    print(f"main process: {1000 * used / arguments.jobs:.1f} ms CPU per job, Snakemake's own work included")
    print(f"plugin alone: {1000 * sum(own.values()) / arguments.jobs:.1f} ms CPU per job", dict(rounded(own)))
    print("calls:", ", ".join(f"{name} {count}" for name, count in sorted(calls.items())))
    return int(status != 0 or made != arguments.jobs)


def prepare(folder: Path, jobs: int, seconds: float) -> None:
    """A workflow of that many jobs, and a PATH on which SLURM is the stand-in."""
    commands = folder / "commands"
    commands.mkdir()
    (folder / "out").mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
    logs = folder / ".snakemake/submitit/logs"
    program = STAND_IN.format(python=sys.executable, home=commands, seconds=seconds, logs=logs)
    for name in ("sbatch", "srun", "scancel", "squeue", "sacct", "scontrol", "sinfo"):
        (commands / name).write_text(program)
        (commands / name).chmod(0o755)
    (commands / "arrays").touch()
    os.environ["PATH"] = f"{commands}{os.pathsep}{os.environ['PATH']}"


def meter_plugin() -> dict[str, float]:
    """CPU seconds that the calling thread spends in the plugin's entry points, filled while the workflow runs."""
    from snakemake_executor_plugin_submitit.launcher import Launcher

    spent: dict[str, float] = collections.defaultdict(float)

    def metered(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return method(*positional, **named)
            finally:
                spent[name] += time.thread_time() - began

        return call

    for name in ("launch", "check", "retire"):
        setattr(Launcher, name, metered(name, getattr(Launcher, name)))
    return spent


def run_snakemake(at_once: int, poll_seconds: float) -> int:
    from snakemake.cli import main as snakemake

    settings = ["--submitit-poll-seconds", str(poll_seconds), "--quiet", "all"]
    settings += ["--scheduler", "greedy", "--max-jobs-per-timespan", "1000/1s"]  # as in the profile
    with open("log", "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            snakemake(["--executor", "submitit", "--jobs", str(at_once), *settings])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def rounded(seconds: dict[str, float]) -> list[tuple[str, str]]:
    return [(name, f"{value:.1f} s") for name, value in sorted(seconds.items())]


if __name__ == "__main__":
    sys.exit(main())
