"""`solo convert` on checkpoints built by hand: every tensor accounted for, anything else refused and never executed."""

import collections
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from solo.artifacts import sha256
from solo.checkpoint import load_model
from solo.cli import main
from solo.coco_categories import COCO
from solo.model.names import from_reference

NAMES = Path(__file__).parent / "golden" / "public"
ZOO_MODELS = {
    "solo": "solo_r50_1x",
    "decoupled": "decoupled_solo_r50_1x",
    "light": "decoupled_solo_light_r50_3x",
}


def weights(kind, classes=80):
    """A tensor per name of the reference, each of one value of its own; a file of them is small."""
    tensors = json.loads((NAMES / f"names_{kind}.json").read_text())["tensors"]
    state = collections.OrderedDict()
    for number, (name, tensor) in enumerate(tensors.items()):
        shape = [classes if name.startswith("mask_head.conv_cls") else side for side in tensor["shape"][:1]]
        whole = name.endswith("num_batches_tracked")
        value = torch.tensor(number if whole else number / 1024)
        state[name] = value.expand(shape + tensor["shape"][1:])
    return state


def in_form(state, form, optimizer=False):
    """A checkpoint as mmdetection 2.x or 3.x lays it out."""
    if form == "2.x":
        meta = {"mmdet_version": "2.16.0+abc1234", "CLASSES": tuple(COCO), "epoch": 12, "config": "model = dict()\n"}
        checkpoint = {"meta": meta, "state_dict": state}
    else:
        meta = {"cfg": "max_epochs = 12\n", "dataset_meta": {"classes": tuple(COCO), "palette": [(220, 20, 60)]}}
        checkpoint = {"meta": meta, "state_dict": state, "message_hub": {"log_scalars": {}, "runtime_info": {}}}
    if optimizer:
        moments = {0: {"momentum_buffer": torch.zeros(1)}}
        checkpoint["optimizer"] = {"state": moments, "param_groups": [{"lr": 0.01, "params": [0]}]}
        schedule = {"milestones": collections.Counter([8, 11]), "last_step": 12}
        checkpoint["param_schedulers"] = [schedule]
    return checkpoint


@pytest.fixture
def files(tmp_path):
    """Writes a checkpoint into a folder of its own and converts it."""

    class Files:
        out = tmp_path / "out" / "model.pth"

        def save(self, value, name="checkpoint.pth", **options):
            torch.save(value, tmp_path / name, **options)
            return tmp_path / name

        def convert(self, path, *options):
            return main(["convert", str(path), "--out", str(self.out), *options])

    return Files()


@pytest.fixture
def refused(files, capsys):
    """Asserts exit status 2, one line of explanation with `words` in it, and nothing written."""

    def check(path, *words, options=()):
        assert files.convert(path, *options) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("solo convert: ")
        for word in words:
            assert word in lines[0]
        assert not files.out.parent.exists()

    return check


@pytest.mark.parametrize("kind", ZOO_MODELS)
def test_every_tensor_has_its_place(files, kind, capsys):
    state = weights(kind)
    assert files.convert(files.save(in_form(state, "2.x"))) == 0
    assert f"{len(state)} tensors as {ZOO_MODELS[kind]}, mmdetection 2.16.0" in capsys.readouterr().out
    model = load_model(files.out)
    ours = model.detector.state_dict()
    for name, tensor in state.items():
        assert torch.equal(ours.pop(from_reference(name)), tensor), name
    assert not ours
    assert {category.name: category.id for category in model.categories} == COCO
    assert model.provenance["source"] == "checkpoint.pth"


def test_data_parallel_prefix_and_a_bare_state_dict(files):
    state = {f"module.{name}": tensor for name, tensor in weights("light").items()}
    assert files.convert(files.save(state)) == 0
    assert float(load_model(files.out).detector.neck.state_dict()["inner_blocks.0.0.bias"][0]) > 0


def test_third_form_with_optimizer_and_log_buffers(files, monkeypatch):
    """The objects that mmengine leaves among the logs are read as nothing; mmengine itself is not imported."""

    class HistoryBuffer:
        def __init__(self):
            self._log_history, self._count_history = np.array([0.5, 0.25]), np.array([1, 1])
            self.methods = {"mean": HistoryBuffer.mean}  # its pickle calls getattr

        def mean(self):
            return self._log_history.mean()

    HistoryBuffer.__module__ = "mmengine.logging.history_buffer"
    HistoryBuffer.__qualname__, HistoryBuffer.mean.__qualname__ = "HistoryBuffer", "HistoryBuffer.mean"
    HistoryBuffer.mean.__module__ = HistoryBuffer.__module__
    checkpoint = in_form(weights("light"), "3.x", optimizer=True)
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["mmengine.logging.history_buffer"].HistoryBuffer = HistoryBuffer
        checkpoint["message_hub"]["log_scalars"]["train/loss"] = HistoryBuffer()
        path = files.save(checkpoint)
    assert files.convert(path) == 0


def test_before_zip_files(files):
    path = files.save(in_form(weights("light"), "2.x"), _use_new_zipfile_serialization=False)
    assert files.convert(path) == 0


def test_own_categories(files):
    checkpoint = in_form(weights("light", classes=2), "2.x")
    checkpoint["meta"]["CLASSES"] = ("disc", "ring")
    assert files.convert(files.save(checkpoint)) == 0
    assert [(c.id, c.name) for c in load_model(files.out).categories] == [(1, "disc"), (2, "ring")]


def test_digest_in_the_name(files, refused):
    path = files.save(in_form(weights("light"), "2.x"))
    right = path.with_name(f"light_20210101-{sha256(path)[:8]}.pth")
    right.write_bytes(path.read_bytes())
    wrong = path.with_name("light_20210101-0123abcd.pth")
    wrong.write_bytes(path.read_bytes())
    refused(wrong, "sha256", "0123abcd")
    refused(path, "sha256", "feed", options=("--sha256", "feed"))
    assert files.convert(right) == 0


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -1])
def test_truncated(files, refused, left):
    path = files.save(in_form(weights("light"), "2.x"))
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if isinstance(left, float) else left])
    refused(path, path.name)


def test_truncated_before_zip_files(files, refused):
    path = files.save(in_form(weights("light"), "2.x"), _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, path.name)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.zeros(3),
        {"meta": {}, "state_dict": {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}},
        {"meta": {}, "state_dict": {"mask_head.conv_cls.bias": "no tensor"}},
        {"meta": {}, "state_dict": [1]},
        {},
    ],
    ids=["list", "tensor", "backbone", "strings", "no dict", "empty"],
)
def test_other_contents(files, refused, content):
    refused(files.save(content), "checkpoint.pth")


def test_no_torch_file_and_no_file(refused, tmp_path):
    path = tmp_path / "checkpoint.pth"
    refused(path, "no file", "solo fetch")
    path.write_text("<html>404 Not Found</html>")
    refused(path, "checkpoint.pth")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "folder.pth")


def test_missing_tensor(files, refused):
    state = weights("solo")
    del state["mask_head.conv_mask_list.3.bias"]
    refused(files.save(in_form(state, "2.x")), "1 tensors are missing", "mask_out.3.bias")


def test_extra_tensor(files, refused):
    state = weights("solo")
    state["mask_head.conv_mask_list.5.bias"] = torch.zeros(4)
    state["rpn_head.rpn_conv.weight"] = torch.zeros(1)
    refused(files.save(in_form(state, "3.x")), "2 tensors have no place", "rpn_head.rpn_conv.weight")


def test_two_tensors_for_one_place(files, refused):
    """Names of the other heads that would land on the same tensor of ours."""
    state = weights("solo")
    state["mask_head.mask_convs_x.0.gn.weight"] = torch.zeros(256)
    refused(files.save(in_form(state, "2.x")), "mask_convs_x.0.gn.weight")


def test_wrong_shape(files, refused):
    state = weights("decoupled")
    state["neck.fpn_convs.0.conv.bias"] = torch.zeros(128)
    refused(files.save(in_form(state, "2.x")), "1 shapes differ", "neck.fpn_convs.0.conv.bias (128,) instead of (256,)")


def test_another_model_than_asked_for(files, refused):
    config = Path("workflow/config/zoo/solo_r50_1x.yaml").resolve()
    refused(files.save(in_form(weights("light"), "2.x")), "does not fit", options=("--config", str(config)))


def test_categories_of_another_number(files, refused):
    checkpoint = in_form(weights("light"), "2.x")
    checkpoint["meta"]["CLASSES"] = ("disc", "ring")
    refused(files.save(checkpoint), "2", "80")


class Attack:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["top", "meta", "state_dict", "optimizer"])
def test_a_malicious_pickle_is_not_executed(files, refused, tmp_path, place, zipped):
    attack = Attack(tmp_path / "executed")
    checkpoint = in_form(weights("light"), "2.x", optimizer=True)
    if place == "top":
        checkpoint = attack
    else:
        checkpoint[place]["x"] = attack
    path = files.save(checkpoint, _use_new_zipfile_serialization=zipped)
    refused(path, "not read from an untrusted file: posix.system")
    assert not attack.mark.exists()
