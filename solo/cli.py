"""`solo COMMAND ...`: one command per stage of the workflow, named as its rule.

Only the module of the command that was asked for is imported, so `solo --help` and the light commands do not
pay for torch. A command module has `add_arguments(parser)` and `run(args)`.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from solo import __version__, progress
from solo.errors import UserError

COMMANDS: dict[str, str] = {
    "config": "layer, check and print the configuration of a run",
    "data": "check a COCO-format folder and write its digest and counts",
    "synth": "draw the embedded synthetic data set, bit-identical for a seed",
    "fetch": "download COCO, ImageNet weights or published checkpoints, resumable and checksummed",
    "train": "train one model; resumes from its own checkpoint",
    "convert": "turn a published mmdetection checkpoint into a model file",
    "predict": "write COCO-format instance masks for a split",
    "evaluate": "mask AP and AR of a predictions file",
    "benchmark": "speed and memory under a stated protocol",
    "show": "draw masks over images: ground truth beside prediction",
    "record": "gather a run's files into one record with its provenance",
    "track": "enter records and curves into MLflow, idempotently",
    "table": "the results table beside the published numbers",
    "report": "one self-contained HTML page: table, curves, bars, pictures",
    "plan": "device-hours and wall time of a suite before anything is submitted",
}

MODULES = {"config": "suite"}  # commands whose module has another name


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 success, 2 a user's mistake, 130 interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv and argv[0] in COMMANDS else None
    parser = argparse.ArgumentParser(prog="solo", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=f"solo {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name == command:
            module = importlib.import_module(f"solo.{MODULES.get(name, name)}")
            module.add_arguments(sub)
            sub.add_argument("--log", help="file to which progress and errors are appended as plain lines")
    args = parser.parse_args(argv)
    if args.log:
        progress.log_to(args.log)
    try:
        module.run(args)
    except UserError as error:
        # a loader worker's error arrives inside its traceback
        progress.say(f"solo {command}: {str(error).rsplit('solo.errors.UserError: ')[-1].strip()}")
        return 2
    except OSError as error:  # a full disk, a folder that cannot be written
        progress.write_log(traceback.format_exc())
        progress.say(f"solo {command}: {error}")
        return 2
    except KeyboardInterrupt:
        progress.say(f"solo {command}: interrupted; the same command goes on from here")
        return 130
    except Exception:
        progress.write_log(traceback.format_exc())
        raise
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
