"""Runs into MLflow: one experiment per suite, one entry per run and seed, from the files that a run leaves.

    solo track results/smoke/*/seed*                   # any number of times: the same entries and points
    solo track --follow results/zoo/solo_r50_1x/seed0  # beside a training, live to a server

Training never talks to MLflow; it appends to files, and this command reads them. A server that is away therefore
stops no training and costs no point.
"""

import argparse
import sys
import time
from pathlib import Path

from solo.entry import Entry
from solo.errors import UserError
from solo.store import Store, default_uri

LONGEST_WAIT = 60.0  # seconds between two tries while a server is away


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `solo track`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="run directories")
    parser.add_argument(
        "--tracking-uri",
        default=default_uri(),
        help="MLflow store: sqlite:///FILE or http(s)://HOST (MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--follow", action="store_true", help="follow one running training until it ends")
    parser.add_argument("--until-done", action="store_true", help="with --follow: until the record is there, too")
    parser.add_argument("--interval", type=float, default=5.0, help="with --follow: seconds between two looks")
    parser.add_argument(
        "--patience", type=float, default=600.0, help="with --follow: seconds to wait for a server after the end"
    )


def run(args: argparse.Namespace) -> None:
    """Enter the runs, or follow one."""
    if args.interval <= 0 or args.patience < 0:
        raise UserError(f"--interval {args.interval} must be above 0 and --patience {args.patience} at least 0 seconds")
    store = Store(args.tracking_uri)
    if args.follow:
        if len(args.runs) != 1:
            raise UserError(f"--follow takes one run directory, not {len(args.runs)}; start one process for each")
        follow(store, args.runs[0], args.interval, args.patience, args.until_done)
        return
    for folder in args.runs:
        entry = Entry.read(folder)
        print(f"{entry.key}: {store.publish(entry)} new of {len(entry.points)} points")


def follow(store: Store, folder: Path, interval: float, patience: float, until_done: bool) -> None:
    """Send the lines of a run as they come; returns when the training has ended and everything is sent.

    While the store cannot be reached, tries come less and less often, up to LONGEST_WAIT apart.

    Raises:
        UserError: the store was away for longer than `patience` seconds after the end of the training.
    """
    last = folder / ("record.json" if until_done else "train.json")
    wait, ended_at, away = interval, None, False
    while True:
        ended = last.exists()  # before the files are read: what comes later is seen by the next look
        ended_at = ended_at or (time.monotonic() if ended else None)
        try:
            if (folder / "config.yaml").exists():
                store.publish(Entry.read(folder))
            if away:
                print(f"{store.uri} is back: everything is sent", file=sys.stderr, flush=True)
            wait, away = interval, False
            if ended:
                return
        except UserError as error:
            if ended_at is not None and time.monotonic() - ended_at > patience:
                raise
            if not away:
                print(f"{error}; trying again", file=sys.stderr, flush=True)
            wait, away = min(2 * wait, LONGEST_WAIT), True
        time.sleep(wait)
