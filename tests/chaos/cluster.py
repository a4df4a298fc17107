"""`snakemake --profile slurm` with the smoke suite on a loopback SLURM that preempts jobs, fails a node, and whose main
process is killed, all at random moments; beside the result of an undisturbed run.

    python -m tests.chaos.cluster --undisturbed results/smoke [--seed N]

Needs root and the packages that tests/slurm/loopback.py names. Works in a fresh clone of this repository's HEAD.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos.compare import differences, summary

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/slurm"))  # its modules import each other by their bare names
import loopback  # noqa: E402


class Chaos:
    """The workflow on the cluster, and what happens to them.

    Args:
        clone: checkout to run in.
        cluster: its SLURM.
        rng: of the moments.
        log: of what the workflow prints.
    """

    def __init__(self, clone: Path, cluster: loopback.Loopback, rng: random.Random, log: Path) -> None:
        self.clone, self.cluster, self.rng, self.log = clone, cluster, rng, log
        binaries = str(Path(sys.executable).parent)
        self.environment = {**os.environ, **cluster.environment}
        self.environment["PATH"] = os.pathsep.join([binaries, self.environment["PATH"]])
        self.main = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """The command that a person types."""
        words = ["snakemake", "--profile", "slurm", "--config", "suite=smoke", "--submitit-poll-seconds", "2"]
        with self.log.open("a") as log:
            return subprocess.Popen(
                words, cwd=self.clone, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill_main(self) -> str:
        """kill -9 of the main process and what it has started on this machine; the jobs run on."""
        os.killpg(self.main.pid, signal.SIGKILL)
        self.main.wait()
        subprocess.run(["snakemake", "--unlock"], cwd=self.clone, env=self.environment, capture_output=True, check=True)
        self.main = self.start()
        return "killed the main process, started it again"

    def preempt(self) -> str:
        """An urgent job takes a whole node for a moment."""
        node = self.busy_node()
        self.cluster.command(
            "sbatch", "-p", "urgent", "--exclusive", "-w", node, "-o", "/dev/null", "--wrap", "sleep 1"
        )
        return f"urgent job on {node}"

    def fail_node(self) -> str:
        """A node goes down with its jobs, and comes back some seconds later."""
        node = self.busy_node()
        self.cluster.command("scontrol", "update", f"nodename={node}", "state=down", "reason=chaos")
        time.sleep(10)
        self.cluster.command("scontrol", "update", f"nodename={node}", "state=resume")
        return f"{node} failed"

    def running(self) -> list[str]:
        """The node of each running job of the workflow."""
        return self.cluster.command("squeue", "-h", "-p", "main", "-t", "running", "-o", "%N").splitlines()

    def busy_node(self) -> str:
        """A node on which the workflow has a job, any one where it has none."""
        return self.rng.choice(self.running() or self.cluster.node_names)

    def go(self, events: list[Callable[[], str]], shortest: float, longest: float) -> None:
        """Let the events happen one after the other while the workflow runs."""
        begun = time.monotonic()
        for event in events:
            self.wait(self.rng.uniform(shortest, longest))
            while self.main.poll() is None and not self.running():
                time.sleep(0.5)
            if self.main.poll() is not None:
                print("the workflow ended before the next event", flush=True)
                break
            busy = len(self.running())
            print(f"{time.monotonic() - begun:4.0f} s, {busy} jobs running: {event()}", flush=True)
        self.wait(3600)
        assert self.main.returncode == 0, self.log.read_text()[-5000:]
        print(f"{time.monotonic() - begun:4.0f} s: done")

    def wait(self, seconds: float) -> None:
        """For the main process, or that long."""
        try:
            self.main.wait(seconds)
        except subprocess.TimeoutExpired:
            if seconds >= 3600:
                raise


def account(chaos: Chaos, models: int) -> list[str]:
    """What SLURM and the executor's ledger say of the jobs."""
    folder = chaos.clone / ".snakemake/submitit"
    accounts = [json.loads(line) for line in (folder / "accounting.jsonl").read_text().splitlines()]
    outputs = Counter(name for entry in accounts if entry["state"] == "COMPLETED" for name in entry["outputs"])
    trainings = [entry for entry in accounts if entry["rule"] == "train"]
    runs = chaos.cluster.command("sacct", "-X", "-D", "-n", "-P", "-o", "State", "-S", "now-1hours").split()
    return [
        f"jobs that SLURM ran: {dict(Counter(runs))}",
        f"trainings started: {len({entry['job_id'] for entry in trainings})} jobs for {models} models, "
        f"continued {sum(entry['requeues'] for entry in trainings)} times",
        f"jobs duplicated: {sum(count - 1 for count in outputs.values())}",
        f"jobs lost: {sum(entry['state'] == 'LOST' for entry in accounts)}",
    ]


def main() -> int:
    """Command line; 1 where the results differ or a job was lost or duplicated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--undisturbed", type=Path, required=True, help="results folder of a run without interruptions")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the moments")
    parser.add_argument("--between", type=float, nargs=2, default=(15, 60), help="seconds from event to event")
    parser.add_argument("--keep", type=Path, help="copy the results folder there, to look at")
    args = parser.parse_args()
    reason = loopback.why_not()
    if reason:
        raise SystemExit(reason)
    print(f"seed {args.seed}", flush=True)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        with loopback.running(folder / "slurm", nodes=2) as cluster:
            chaos = Chaos(clone, cluster, rng, folder / "main.log")
            events = [chaos.preempt, chaos.kill_main, chaos.fail_node, chaos.preempt, chaos.kill_main, chaos.preempt]
            rng.shuffle(events)
            chaos.go(events, *args.between)
            results = clone / "results/smoke"
            lines = account(chaos, len(list(results.glob("*/seed*/train.json"))))
        print("\n".join([*lines, *summary(results)]))
        different = differences(args.undisturbed, results)
        if args.keep:
            subprocess.run(["cp", "-r", str(results), str(args.keep)], check=True)
    print("equal to the undisturbed run" if not different else "DIFFERENT: " + ", ".join(different))
    return int(bool(different) or not {"jobs duplicated: 0", "jobs lost: 0"} <= set(lines))


if __name__ == "__main__":
    raise SystemExit(main())
