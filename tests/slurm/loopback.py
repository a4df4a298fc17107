"""A real SLURM on loopback, for tests: munge, slurmctld, several slurmd and, if asked, slurmdbd on MariaDB.

    python tests/slurm/loopback.py up /tmp/lab      # prints the line to export
    python tests/slurm/loopback.py down /tmp/lab

Needs root and the Debian packages munge slurmctld slurmd slurm-client slurmdbd mariadb-server-core; no systemd, no
cgroups, no change outside the folder. Every daemon is stopped by the process id it wrote, never by its name.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import loopback_conf

DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue")
ACCOUNTING_DAEMONS = ("slurmdbd", "mariadbd", "sacct", "sacctmgr")
MYSQL_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")


def why_not(accounting: bool = True) -> str | None:
    """The reason why no cluster can be started here, None where it can."""
    wanted = DAEMONS + (ACCOUNTING_DAEMONS if accounting else ())
    missing = [name for name in wanted if not shutil.which(name, path=_search_path())]
    if missing:
        return f"SLURM's binaries are absent: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "the loopback SLURM has to be started by root"
    return None


@dataclass
class Loopback:
    """One cluster in one folder. `user_signal=False` leaves preemption to SIGTERM, as clusters do by default."""

    lab: Path
    nodes: int = 2
    accounting: bool = True
    user_signal: bool = True
    cpus: int = 8
    _database: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to talk to this cluster."""
        return {"SLURM_CONF": str(self.lab / "etc/slurm.conf"), "PATH": _search_path()}

    def up(self) -> Loopback:
        """Start whatever does not run yet and wait until every node is idle. Seconds."""
        self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_database()
            self._start_slurmdbd()
        self.start_controller()
        for name in self.node_names:
            self.start_node(name)
        self._until(60, "nodes", self._nodes_ready)
        return self

    def down(self) -> None:
        """Cancel what is left, stop the daemons and remove the folder."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", "-u", "root"], env=self._env, capture_output=True, timeout=10, check=False)
            self._until(10, "jobs to end", lambda: not self.command("squeue", "-h").strip())
        self.stop("slurmctld", "slurmctld")
        for name in self.node_names:
            self.stop(f"slurmd-{name}", "slurmd")
        for name, program in (("slurmdbd", "slurmdbd"), ("mariadbd", "mariadbd"), ("munged", "munged")):
            self.stop(name, program)
        if self._database is not None:
            self._database.wait()
        shutil.rmtree(self.lab, ignore_errors=True)

    @property
    def node_names(self) -> list[str]:
        return [f"node{index}" for index in range(1, self.nodes + 1)]

    def command(self, *words: str, timeout: float = 20) -> str:
        """Standard output of a SLURM command; raises if it fails."""
        return subprocess.run(words, env=self._env, capture_output=True, text=True, timeout=timeout, check=True).stdout

    def start_controller(self) -> None:
        if not self._alive("slurmctld", "slurmctld"):
            self._daemon("slurmctld")
            self._until(30, "slurmctld", lambda: bool(self.command("scontrol", "ping")))

    def start_node(self, name: str) -> None:
        if not self._alive(f"slurmd-{name}", "slurmd"):
            self._daemon("slurmd", "-N", name)

    def stop(self, name: str, program: str, patience: float = 15) -> None:
        """End one daemon by the id in its pid file: TERM, then KILL when patience (seconds) is over."""
        if self._alive(name, program):
            pid = int(self._pid_file(name).read_text())
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + patience
            while self._alive(name, program) and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._alive(name, program):
                os.kill(pid, signal.SIGKILL)
        self._pid_file(name).unlink(missing_ok=True)

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _write_configuration(self) -> None:
        if (self.lab / "etc/slurm.conf").exists():
            return
        for folder in ("etc", "log", "run", "state", "mysql"):
            (self.lab / folder).mkdir(parents=True, exist_ok=True)
        for name in self.node_names:
            (self.lab / "spool" / name).mkdir(parents=True, exist_ok=True)
        ports = _free_ports(self.nodes + 3)
        values = {
            "lab": self.lab,
            "host": socket.gethostname().split(".")[0],
            "first_job_id": 10_000 + int(time.time()) % 50_000_000,
            "nodes": f"node[1-{self.nodes}]",
            "node_ports": f"[{ports[3]}-{ports[-1]}]",
            "cpus": self.cpus,
            "controller_port": ports[0],
            "database_daemon_port": ports[1],
            "database_port": ports[2],
            # the spelling of 22.05; since 23.02 it is PreemptParameters=send_user_signal
            "controller_parameters": "SlurmctldParameters=preempt_send_user_signal" if self.user_signal else "",
        }
        accounting = loopback_conf.ACCOUNTING if self.accounting else "AccountingStorageType=accounting_storage/none"
        values["accounting"] = Template(accounting).substitute(values)
        for name, text in loopback_conf.FILES.items():
            path = self.lab / "etc" / name
            path.write_text(Template(text).substitute(values))
            path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
        key = self.lab / "etc/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for folder in (self.lab, *self.lab.iterdir()):
            folder.chmod(0o755)

    def _start_munge(self) -> None:
        if not self._alive("munged", "munged"):
            run = self.lab / "run"
            self._daemon(
                "munged",
                "--force",
                f"--key-file={self.lab}/etc/munge.key",
                f"--socket={run}/munge.sock",
                f"--pid-file={run}/munged.pid",
                f"--seed-file={run}/munge.seed",
                f"--log-file={self.lab}/log/munged.log",
            )

    def _start_database(self) -> None:
        if self._alive("mariadbd", "mariadbd"):
            return
        defaults = f"--defaults-file={self.lab}/etc/my.cnf"
        if not (self.lab / "mysql/mysql").exists():
            # mariadb-install-db needs a program of another package; its SQL, one statement a line, does as well
            head = ["CREATE DATABASE mysql", "USE mysql", "SET @auth_root_socket=NULL", "SET @skip_auth_anonymous=1"]
            sql = "".join(f"{line};\n" for line in head)
            sql += "".join((Path("/usr/share/mysql") / name).read_text() for name in MYSQL_TABLES)
            with (self.lab / "log/bootstrap.log").open("w") as log:
                subprocess.run(
                    ["mariadbd", defaults, "--bootstrap", "--init-file="],
                    input=sql,
                    text=True,
                    stdout=log,
                    stderr=log,
                    env=self._env,
                    check=True,
                )
        with (self.lab / "log/mariadbd.out").open("w") as log:
            self._database = subprocess.Popen(
                ["mariadbd", defaults],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        port = int(_value(self.lab / "etc/my.cnf", "port"))
        self._until(30, "mariadbd", lambda: _port_open(port))

    def _start_slurmdbd(self) -> None:
        if not self._alive("slurmdbd", "slurmdbd"):
            self._daemon("slurmdbd")
            self._until(30, "slurmdbd", lambda: self.command("sacctmgr", "-n", "show", "cluster") is not None)
        if "loopback" not in self.command("sacctmgr", "-nP", "show", "cluster", "format=cluster"):
            self.command("sacctmgr", "-iQ", "add", "cluster", "loopback")

    def _daemon(self, *words: str) -> None:
        subprocess.run(words, env=self._env, stdin=subprocess.DEVNULL, check=True, timeout=30)

    def _nodes_ready(self) -> bool:
        states = self.command("sinfo", "-hN", "-p", "main", "-o", "%T").split()
        return len(states) == self.nodes and all(state in ("idle", "mixed", "allocated") for state in states)

    def _pid_file(self, name: str) -> Path:
        return self.lab / f"run/{name}.pid"

    def _alive(self, name: str, program: str) -> bool:
        """Whether the pid file names a living process of that program; a zombie counts as gone."""
        try:
            pid = int(self._pid_file(name).read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state != "Z" and program in Path(f"/proc/{pid}/cmdline").read_text()
        except (OSError, ValueError):
            return False

    def _until(self, seconds: float, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if ready():
                    return
            if time.monotonic() > deadline:
                logs = "\n".join(f"== {p.name}\n{p.read_text()[-800:]}" for p in self.lab.glob("log/*.log"))
                raise TimeoutError(f"waited {seconds} s for {what}\n{logs}")
            time.sleep(0.05)


@contextlib.contextmanager
def running(lab: Path, **options: object) -> Iterator[Loopback]:
    """A cluster that is torn down at the end, also when starting it failed half-way."""
    cluster = Loopback(lab, **options)  # type: ignore[arg-type]
    try:
        yield cluster.up()
    finally:
        cluster.down()


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _value(path: Path, key: str) -> str:
    found = re.search(rf"^{key}=(.*)$", path.read_text(), re.MULTILINE)
    assert found, f"{path} has no {key}="
    return found.group(1)


def _port_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    """Consecutive free ports below the range that MASTER_PORT is drawn from (20000 to 60000)."""
    for base in random.sample(range(10_000, 19_900, 20), 100):
        ports = list(range(base, base + count))
        if not any(_port_open(port) for port in ports):
            return ports
    raise OSError("no range of free ports between 10000 and 20000")


def main(action: str, folder: str) -> None:
    cluster = Loopback(Path(folder).absolute())
    if action == "up":
        cluster.up()
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
    elif action == "down":
        cluster.down()
    else:
        raise SystemExit(f"{action}: the actions are up and down")


if __name__ == "__main__":
    main(*sys.argv[1:])
