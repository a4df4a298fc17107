"""Training: stop it anywhere and it ends where the uninterrupted run would have; faults are named."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

from solo.batches import Collate, MicroBatches
from solo.checkpoint import load_model
from solo.cli import main
from solo.config import Config
from solo.dataset import CocoSplit, TrainingSet
from solo.distributed import Group
from solo.errors import UserError
from solo.layers import load, with_classes
from solo.loop import Training, TrainingStep
from solo.model.detector import build_detector
from solo.schedule import learning_rate
from solo.stop import Interrupted, StopSignal
from solo.train import train


class StopAfter(StopSignal):
    """Asks for a stop after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def __bool__(self):
        self.steps -= 1
        return self.steps < 0


NEVER = StopAfter(10**9)


def fit(config, data, out, stop=NEVER, seed=0, **changes):
    """`train` in this process; `changes` are sections over the tiny configuration."""
    spec = load(config, changes).model_copy(update={"seed": seed})
    train(spec, data, out, out, torch.device("cpu"), Group(), stop)


def words(config, data, out, *more):
    return ["train", "--config", config, "--data", data, "--out", out, "--threads", 1, "--device", "cpu", *more]


def weights(out):
    return load_model(out / "model.pth").detector.state_dict()


def assert_same_run(a, b):
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def straight(tiny_config, tiny_data, tmp_path_factory):
    """The uninterrupted run: 4 epochs of 3 steps."""
    out = tmp_path_factory.mktemp("straight")
    fit(tiny_config, tiny_data, out)
    return out


def test_what_a_run_leaves(straight, tiny_config):
    summary = json.loads((straight / "train.json").read_text())
    assert (summary["steps"], summary["epochs"], summary["resumes"]) == (12, 4, 0)
    assert (summary["batch_size"], summary["accumulation"], summary["world_size"]) == (4, 2, 1)
    assert summary["config_digest"] == load(tiny_config).config.digest()
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 13))
    assert [(line["step"], line["epoch"]) for line in lines if line["kind"] == "val"] == [(6, 2), (12, 4)]
    model = load_model(straight / "model.pth")
    assert [category.name for category in model.categories]
    assert model.run.config.head.num_classes == len(model.categories)


@pytest.mark.parametrize("steps", [1, 3, 5, 6])
def test_a_resumed_run_is_the_straight_run(tiny_config, tiny_data, straight, tmp_path, steps):
    with pytest.raises(Interrupted, match=f"after step {steps + 1} of 12"):
        fit(tiny_config, tiny_data, tmp_path, StopAfter(steps))
    fit(tiny_config, tiny_data, tmp_path)
    assert_same_run(tmp_path, straight)
    assert json.loads((tmp_path / "train.json").read_text())["resumes"] == 1


def test_stopping_between_two_lines_of_the_curves_changes_none(tiny_config, tiny_data, tmp_path):
    schedule = {"log_every": 5}
    fit(tiny_config, tiny_data, tmp_path / "whole", schedule=schedule)
    for steps in (2, 3):
        with pytest.raises(Interrupted):
            fit(tiny_config, tiny_data, tmp_path / "chopped", StopAfter(steps), schedule=schedule)
    fit(tiny_config, tiny_data, tmp_path / "chopped", schedule=schedule)
    assert_same_run(tmp_path / "chopped", tmp_path / "whole")


def test_deleted_and_damaged_curves_are_restored(tiny_config, tiny_data, straight, tmp_path):
    for stop, damage in ((4, b""), (8, b'{"kind": "train", "st')):
        with pytest.raises(Interrupted):
            fit(tiny_config, tiny_data, tmp_path, StopAfter(stop - int(json_steps(tmp_path))))
        (tmp_path / "metrics.jsonl").unlink()
        if damage:
            (tmp_path / "metrics.jsonl").write_bytes(damage)
    fit(tiny_config, tiny_data, tmp_path)
    assert_same_run(tmp_path, straight)


def test_a_crash_after_a_validation_keeps_the_sums_since_the_last_line(tiny_config, tiny_data, tmp_path, monkeypatch):
    schedule = {"log_every": 4}  # validation after step 6 falls between two lines
    fit(tiny_config, tiny_data, tmp_path / "whole", schedule=schedule)
    validate = Training._evaluate_if_due

    def crash(training):
        before = training.journal.text["metrics.jsonl"]
        validate(training)
        if training.journal.text["metrics.jsonl"] != before:
            raise SystemError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_evaluate_if_due", crash)
        with pytest.raises(SystemError):
            fit(tiny_config, tiny_data, tmp_path / "chopped", schedule=schedule)
    fit(tiny_config, tiny_data, tmp_path / "chopped", schedule=schedule)
    assert_same_run(tmp_path / "chopped", tmp_path / "whole")


def json_steps(out):
    """Steps in the checkpoint."""
    checkpoint = out / "checkpoints/last.pth"
    return torch.load(checkpoint, weights_only=True)["step"] if checkpoint.exists() else 0


def test_every_signal_in_turn_at_random_moments(solo, tiny_config, tiny_data, tmp_path):
    """SIGTERM, SIGUSR2 and SIGINT leave status 75, SIGKILL leaves what it finds; the end is the same."""
    moments, steps = random.Random(), 48  # of each epoch count below: 16 epochs of 3 steps
    longer = ["--set", "schedule.epochs=16", "schedule.eval_every=5"]
    chopped, whole = tmp_path / "chopped", tmp_path / "whole"
    signals = [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGKILL]
    for number, turn in enumerate(signals):
        moment = moments.randrange(number * 10, number * 10 + 6) + 1
        process = subprocess.Popen(
            [sys.executable, "-m", "solo.cli", *map(str, words(tiny_config, tiny_data, chopped, *longer))],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        curves = chopped / "throughput.jsonl"
        while process.poll() is None and not (curves.exists() and curves.read_text().count("\n") >= moment):
            time.sleep(0.002)
        process.send_signal(turn)
        error = process.communicate(timeout=120)[1]
        expected = -turn if turn == signal.SIGKILL else 75
        assert process.returncode == expected, f"{turn.name} at step {moment}: {error}"
        if turn != signal.SIGKILL:
            assert f"{turn.name} after step" in error
            assert "the same command goes on from there" in error
        assert not (chopped / "model.pth").exists()
    for out in (chopped, whole):
        done = solo(*words(tiny_config, tiny_data, out, *longer))
        assert done.returncode == 0, done.stderr
    assert json.loads((chopped / "train.json").read_text())["steps"] == steps
    assert_same_run(chopped, whole)


def test_a_checkpoint_of_another_configuration_is_set_aside(tiny_config, tiny_data, straight, tmp_path, capsys):
    with pytest.raises(Interrupted):
        fit(tiny_config, tiny_data, tmp_path, StopAfter(3), schedule={"lr": 0.5})
    fit(tiny_config, tiny_data, tmp_path)
    assert "is of another config_digest; it is kept as stale.pth, training starts anew" in capsys.readouterr().err
    assert (tmp_path / "checkpoints/stale.pth").exists()
    assert_same_run(tmp_path, straight)
    with pytest.raises(Interrupted):
        fit(tiny_config, tiny_data, tmp_path, StopAfter(0), seed=1)
    assert "is of another seed" in capsys.readouterr().err


def test_runtime_fields_change_no_result(tiny_config, tiny_data, straight, tmp_path):
    fit(tiny_config, tiny_data, tmp_path, runtime={"workers": 2, "checkpoint_minutes": 0.0001})
    assert_same_run(tmp_path, straight)


def test_a_damaged_checkpoint_is_named(tiny_config, tiny_data, tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny_config, tiny_data, tmp_path, StopAfter(0))
    file = tmp_path / "checkpoints/last.pth"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match=f"{file} is no SOLO checkpoint: it is truncated, damaged"):
        fit(tiny_config, tiny_data, tmp_path)


def test_a_loss_that_is_not_finite_names_step_and_images(tiny_config, tiny_data, tmp_path):
    schedule = {"lr": 1e30, "warmup_steps": 0, "log_every": 3}
    with pytest.raises(UserError, match=r"not finite at step [23], images \[\d+, \d+, \d+, \d+\]; .*schedule.lr"):
        fit(tiny_config, tiny_data, tmp_path, schedule=schedule)
    assert not (tmp_path / "checkpoints/last.pth").exists()
    assert not (tmp_path / "model.pth").exists()


def test_a_batch_of_micro_batches_is_one_step_by_hand(tiny_config, tiny_data, tmp_path):
    """Mean of the micro-batches' losses, SGD with momentum and decay on everything."""
    fit(tiny_config, tiny_data, tmp_path, schedule={"epochs": 1, "eval_every": 0})
    split = CocoSplit(tiny_data, "train2017")
    spec = with_classes(load(tiny_config, {"schedule": {"epochs": 1}}), len(split.categories))
    config: Config = spec.config
    torch.manual_seed(0)
    detector = build_detector(config.backbone, config.head).train()
    data, collate, step = TrainingSet(split, config.input, 0), Collate(config.head), TrainingStep(detector, config)
    batches = list(MicroBatches(data.is_wide(), 2, 2, 0, 1, seed=0, epochs=1))
    velocity = {}
    for number in range(3):
        losses = [step(collate([data[key] for key in batch])) for batch in batches[2 * number : 2 * number + 2]]
        detector.zero_grad()
        (sum(sum(parts.values()) for parts in losses) / 2).backward()
        rate = learning_rate(config.schedule, number, 3)
        with torch.no_grad():
            for name, p in detector.named_parameters():
                decayed = p.grad + config.schedule.weight_decay * p
                velocity[name] = config.schedule.momentum * velocity[name] + decayed if number else decayed
                p -= rate * velocity[name]
    for name, value in weights(tmp_path).items():
        torch.testing.assert_close(value, detector.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_two_processes_equal_one(solo, tiny_config, tiny_data, straight, tmp_path):
    done = solo(*words(tiny_config, tiny_data, tmp_path, "--devices", 2))
    assert done.returncode == 0, done.stderr
    one, two = weights(straight), weights(tmp_path)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)
    curves = [
        [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()] for out in (straight, tmp_path)
    ]
    for a, b in zip(*curves, strict=True):
        assert (a["kind"], a["step"], a["epoch"]) == (b["kind"], b["step"], b["epoch"])
        if a["kind"] == "train":
            assert np.allclose([a["loss"], a["positive_cells"]], [b["loss"], b["positive_cells"]], rtol=1e-3)
    assert json.loads((tmp_path / "train.json").read_text())["world_size"] == 2


def test_processes_that_cannot_share_a_batch(tiny_config, tiny_data, tmp_path):
    spec = load(tiny_config)
    with pytest.raises(UserError, match=r"3 processes cannot share 2 micro-batches .*valid numbers of processes: 1, 2"):
        train(spec, tiny_data, tmp_path, tmp_path, torch.device("cpu"), Group(0, 3), NEVER)


def test_an_incomplete_task_set_is_named(solo, tiny_config, tiny_data, tmp_path):
    done = solo(*words(tiny_config, tiny_data, tmp_path), WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "WORLD_SIZE is 2 but LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set" in done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded(tiny_config, tiny_data, tmp_path, capsys, workers):
    data = tmp_path / "data"
    (data / "train2017").mkdir(parents=True)
    for name in ("annotations", "val2017"):
        (data / name).symlink_to(tiny_data / name)
    for path in (tiny_data / "train2017").iterdir():
        (data / "train2017" / path.name).write_bytes(path.read_bytes()[:200])
    assert main(list(map(str, words(tiny_config, data, tmp_path, "--set", f"runtime.workers={workers}")))) == 2
    error = capsys.readouterr().err
    assert f"cannot decode image {data}/train2017/" in error
    assert "Traceback" not in error


def test_a_place_that_cannot_be_written(tiny_config, tiny_data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(list(map(str, words(tiny_config, tiny_data, tmp_path / "file/run")))) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_full_disk_is_said_and_the_run_goes_on_afterwards(solo, tiny_config, tiny_data, straight, tmp_path):
    """Files of at most 100 kB, which no checkpoint fits in."""
    command = ["/bin/sh", "-c", 'ulimit -f 200; exec "$@"', "sh", sys.executable, "-m", "solo.cli"]
    command += map(str, words(tiny_config, tiny_data, tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"cannot write {tmp_path}/checkpoints/last.pth: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))
    assert solo(*words(tiny_config, tiny_data, tmp_path)).returncode == 0
    assert_same_run(tmp_path, straight)


def test_an_unknown_key_lists_the_valid_ones(tiny_config, tiny_data, tmp_path, capsys):
    assert main(list(map(str, words(tiny_config, tiny_data, tmp_path, "--set", "schedule.speed=3")))) == 2
    error = capsys.readouterr().err
    assert "unknown key 'schedule.speed'; valid keys here: epochs, milestones" in error
    assert yaml.safe_load(tiny_config.read_text())["name"] == "tiny"
