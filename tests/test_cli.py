"""The command line: quick to answer, everything documented, and a user's mistake ends in one line."""

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from solo import __version__, cli
from solo.cli import COMMANDS, MODULES, main

LIGHT = ["config", "table", "report", "record", "track", "evaluate", "synth", "fetch"]


def modules_after(*words):
    """Names of the modules that `solo` with these words imports."""
    code = "import sys; from solo.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print('MODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_help_answers_in_under_a_second():
    times = []
    for _ in range(5):  # the best of some, so that a busy machine does not fail it
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "solo.cli", "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        if times[-1] < 1:
            break
    assert min(times) < 1
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", LIGHT)
def test_light_commands_do_not_import_torch(command):
    assert "torch" not in modules_after(command, "--help")


def parser_of(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"solo.{MODULES.get(command, command)}").add_arguments(parser)
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command, capsys):
    assert [action.dest for action in parser_of(command)._actions if not action.help] == []
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    assert COMMANDS[command].split(",")[0].split(":")[0].split(";")[0] in " ".join(shown.split())
    assert "--log" in shown


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"solo {__version__}\n"


def test_the_contract_of_the_options():
    """Scripts rely on these."""
    contract = {
        "synth": "--out --images --seed",
        "train": "--config --data --out --set --seed",
        "convert": "--out",
        "predict": "--model --data --split --out",
        "evaluate": "--predictions --annotations --out",
        "benchmark": "--model --data --out",
    }
    for command, options in contract.items():
        known = {option for action in parser_of(command)._actions for option in action.option_strings}
        assert set(options.split()) <= known, command


@pytest.fixture(scope="module")
def broken(tiny_data, tmp_path_factory):
    """Things that are not what they should be, by name."""
    root = tmp_path_factory.mktemp("broken")
    (root / "truncated.pth").write_bytes(b"PK\x03\x04 and nothing more")
    (root / "empty.pth").write_bytes(b"")
    (root / "text.yaml").write_text("just words")
    (root / "list.json").write_text("[]")
    (root / "empty.json").write_text("")
    (root / "photo.jpg").write_bytes(b"\xff\xd8\xff no picture")
    for name in ("no_images", "damaged"):
        shutil.copytree(tiny_data, root / name)
    coco = json.loads((root / "no_images/annotations/instances_train2017.json").read_text())
    file = root / "no_images/annotations/instances_train2017.json"
    file.write_text(json.dumps({**coco, "images": [], "annotations": []}))
    for path in (root / "damaged/train2017").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    cv2.imwrite(str(root / "good.png"), np.zeros((8, 8, 3), np.uint8))
    return root


MISTAKES = {
    "config, no file": ("config --model {root}/nowhere.yaml", "cannot read {root}/nowhere.yaml"),
    "config, no mapping": ("config --model {root}/text.yaml", "must hold a mapping"),
    "config, unknown key": ("config --model {config} --set head.color=1", "unknown key 'head.color'; valid keys here"),
    "config, no suite": ("config --model {config} --suite {root}/nowhere.yaml", "cannot read"),
    "train, no data": ("train --config {config} --data {root}/nowhere --out {out}", "no {root}/nowhere/annotations"),
    "train, no images": ("train --config {config} --data {root}/no_images --out {out}", "lists no images"),
    "train, no config": ("train --config {root}/nowhere.yaml --data {data} --out {out}", "cannot read"),
    "train, wrong device": (
        "train --config {config} --data {data} --out {out} --device tpu9", "valid: auto, cpu, cuda, cuda:N",
    ),
    "train, no weights": (
        "train --config {config} --data {data} --out {out} --weights {root} --set backbone.pretrained=imagenet "
        "backbone.width=1.0 backbone.norm=frozen_bn", "solo fetch resnet18",
    ),
    "data, damaged": ("data --data {root}/damaged --out {out}/data.json", "cannot decode image {root}/damaged/train"),
    "data, nothing": ("data --data {root} --out {out}/data.json", "a data folder holds annotations/"),
    "predict, truncated": (
        "predict --model {root}/truncated.pth --data {data} --out {out}/p.json", "truncated.pth is no SOLO model",
    ),
    "predict, empty": ("predict --model {root}/empty.pth --data {data} --out {out}/p.json", "is no SOLO model"),
    "predict, no model": (
        "predict --model {root}/nowhere.pth --data {data} --out {out}/p.json", "cannot read {root}/nowhere.pth",
    ),
    "convert, truncated": ("convert {root}/truncated.pth --out {out}/model.pth", "truncated.pth"),
    "evaluate, empty": (
        "evaluate --predictions {root}/empty.json --annotations {root}/list.json --out {out}/m.json", "list.json",
    ),
    "evaluate, not JSON": (
        "evaluate --predictions {root}/empty.json --annotations {data}/annotations/instances_val2017.json "
        "--out {out}/m.json", "empty.json is not a JSON file",
    ),
    "benchmark, text": ("benchmark --model {root}/text.yaml --data {data} --out {out}/s.json", "is no SOLO model"),
    "show, nothing": ("show --out {out}", "give either --predictions and --data, or --model and image files"),
    "synth, too small": ("synth --out {out} --size 3", "valid: 64 to 1024"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_ends_in_one_line_and_status_2(name, broken, tiny_config, tiny_data, tmp_path, capsys):
    command, message = MISTAKES[name]
    places = {"root": broken, "config": tiny_config, "data": tiny_data, "out": tmp_path / "out"}
    words = [word.format(**places) for word in command.split()]
    if words[0] == "train" and "--device" not in words:
        words += ["--device", "cpu"]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert message.format(**places) in lines[-1]
    assert lines[-1].startswith(f"solo {words[0]}: ")
    assert len(lines) == 1, lines


def test_an_unknown_command_lists_the_valid_ones(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["tarin"])
    assert exit_.value.code == 2
    assert "'train'" in capsys.readouterr().err


def test_a_log_holds_what_was_said_and_a_fault_of_ours_its_traceback(tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    opened = []
    monkeypatch.setattr(cli.progress, "_log", opened)
    assert main(["config", "--model", str(tmp_path / "nowhere.yaml"), "--log", str(log)]) == 2
    assert log.read_text() == capsys.readouterr().err

    def fault(args):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("solo.suite.run", fault)
    with pytest.raises(ZeroDivisionError):
        main(["config", "--model", "x"])
    assert "ZeroDivisionError: ours" in log.read_text()
    for file in opened:
        file.close()
