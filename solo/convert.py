"""A published mmdetection checkpoint as a model file.

    solo convert solo_r50_fpn_1x_coco-<digest>.pth --out model.pth

mmdetection 2.x and 3.x name the tensors alike and differ in what surrounds them; both are read, with or without the
optimizer's state, and nothing of them is ever executed.
"""

import argparse
import collections
import importlib
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solo.artifacts import sha256
from solo.checkpoint import Model, save_model
from solo.coco_categories import COCO
from solo.dataset import Category
from solo.errors import UserError
from solo.layers import load, with_classes
from solo.model.detector import Detector, build_detector
from solo.model.names import from_reference
from solo.sources import CHECKPOINTS
from solo.suite import ZOO

ZOO_FILES = Path(__file__).parent.parent / "workflow" / "config" / "zoo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo convert`."""
    parser.add_argument("checkpoint", help="published .pth file")
    parser.add_argument("--out", required=True, help="model.pth to write")
    parser.add_argument("--config", help="zoo file or config.yaml; default: the model that the file's contents name")
    parser.add_argument("--sha256", help="first digits of the file's SHA-256; default: those in its name")


def run(args: argparse.Namespace) -> None:
    """Check, convert and report what was read."""
    path = Path(args.checkpoint)
    check_digest(path, args.sha256)
    checkpoint = read(path)
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    state = state_dict(checkpoint, path)
    spec = load(args.config or zoo_file(path, meta, state))
    classes = len(state["mask_head.conv_cls.bias"])
    spec = with_classes(spec, classes)
    detector = build_detector(spec.config.backbone, spec.config.head)
    count = transfer(state, detector, path)
    provenance = {
        "source": path.name, "sha256": sha256(path), "mmdet_version": str(meta.get("mmdet_version", "unknown")),
        "epoch": str(meta.get("epoch", "unknown")), "config_digest": spec.config.digest(),
    }  # fmt: skip
    save_model(args.out, Model(detector, spec, categories(meta, classes), provenance))
    print(f"{path.name}: {count} tensors as {spec.name}, mmdetection {provenance['mmdet_version']}")


def check_digest(path: Path, expected: str | None) -> None:
    """Compare the file with the digest in its name (`...-<8 hex>.pth`, torch's convention) or the one given.

    Raises:
        UserError: missing file or another digest.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; fetch it with `solo fetch MODEL --out {path.parent}`, MODEL one of "
                        f"{', '.join(CHECKPOINTS)}")  # fmt: skip
    named = re.search(r"[-_]([0-9a-f]{8})\.pth$", path.name)
    wanted = (expected or (named.group(1) if named else "")).lower()
    found = sha256(path)
    if not found.startswith(wanted):
        raise UserError(
            f"{path} has sha256 {found[:8]}..., not {wanted}: it is damaged or was replaced; fetch it again"
        )


class Inert:
    """Stands for any class of the training framework that a checkpoint mentions: holds nothing, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read(path: Path) -> dict[str, Any]:
    """The checkpoint's dictionary, with every foreign object replaced by an inert one.

    Raises:
        UserError: the file is truncated, damaged or no checkpoint.
    """
    multiarray = importlib.import_module("numpy._core.multiarray")  # not numpy's public face; pickles name it
    allowed: list[Any] = [
        collections.deque, collections.OrderedDict, collections.defaultdict, np.dtype, np.ndarray, set,
        *(type(np.dtype(t)) for t in ("float64", "float32", "int64", "int32", "bool")),
        *((getattr(multiarray, name), f"{module}.multiarray.{name}")
          for name in ("_reconstruct", "scalar") for module in ("numpy.core", "numpy._core")),
        (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
        (Inert, "builtins.getattr"),  # how that buffer's state names its own methods
    ]  # fmt: skip
    try:
        with torch.serialization.safe_globals(allowed):
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds objects that are not read from an untrusted file: {foreign(error)}") from error
    except Exception as error:  # torch raises RuntimeError, EOFError and others for damaged files
        raise UserError(f"{path} is truncated, damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, not a checkpoint")
    return value


def foreign(error: Exception) -> str:
    """The name of the object that was refused, out of torch's lines of advice."""
    named = re.search(r"GLOBAL (\S+)|unrecognized function (.+)", str(error))
    return next(filter(None, named.groups())) if named else "an operation that no checkpoint needs"


def first_line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def state_dict(checkpoint: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights by the reference's names.

    Raises:
        UserError: no weights, or not those of a SOLO model.
    """
    state = checkpoint.get("state_dict", checkpoint.get("state", checkpoint))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} has no state_dict of tensors; its keys are {', '.join(map(str, checkpoint))[:200]}")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "mask_head.conv_cls.bias" not in state:
        raise UserError(f"{path} is no SOLO checkpoint: it has no mask_head.conv_cls; first names: {list(state)[:3]}")
    return state


def zoo_file(path: Path, meta: dict[str, Any], state: dict[str, Tensor]) -> Path:
    """The zoo file of a checkpoint, by its file name, else by its configuration's, else by its tensors.

    1x and 3x models have the same tensors; where only those speak, the 1x file is taken, which predicts alike.
    """
    for model, source in CHECKPOINTS.items():
        if source.name == path.name:
            return ZOO_FILES / f"{model}.yaml"
    head = "decoupled_solo" if any("conv_mask_list_x" in name for name in state) else "solo"
    if head == "decoupled_solo" and any(re.match(r"mask_head\.mask_convs\.", name) for name in state):
        return ZOO_FILES / "decoupled_solo_light_r50_3x.yaml"
    text = f"{path.name} {meta.get('experiment_name', '')} {meta.get('config') or meta.get('cfg') or ''!s}"
    length = "3x" if re.search(r"max_epochs\s*=\s*36|_3x_", text) else "1x"
    model = f"{head}_r50_{length}"
    assert model in ZOO
    return ZOO_FILES / f"{model}.yaml"


def transfer(state: dict[str, Tensor], detector: Detector, path: Path) -> int:
    """Copy every tensor to its place; returns their number.

    Raises:
        UserError: a tensor without a place, a place without a tensor, or another shape; all of them are named.
    """
    ours = detector.state_dict()
    renamed = {name: from_reference(name) for name in state}
    taken = collections.Counter(renamed.values())  # the heads' branches share places: two names may want one
    extra = [name for name, mine in renamed.items() if mine not in ours]
    doubled = [name for name, mine in renamed.items() if mine in ours and taken[mine] > 1]
    missing = sorted(set(ours) - set(renamed.values()) - {n for n in ours if n.endswith("num_batches_tracked")})
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(ours[mine].shape)}"
        for name, mine in renamed.items()
        if mine in ours and state[name].shape != ours[mine].shape
    ]
    faults = [
        f"{len(found)} {what}: {', '.join(found[:3])}"
        for what, found in (
            ("tensors have no place", extra),
            ("tensors share a place", doubled),
            ("tensors are missing", missing),
            ("shapes differ", shapes),
        )
        if found
    ]
    if faults:
        raise UserError(f"{path} does not fit the model: " + "; ".join(faults))
    detector.load_state_dict({mine: state[name] for name, mine in renamed.items() if mine is not None}, strict=False)
    return len(state)


def categories(meta: dict[str, Any], classes: int) -> list[Category]:
    """The checkpoint's categories with COCO's ids where they are COCO's, else numbered from 1.

    Raises:
        UserError: another number of names than of classes.
    """
    dataset = meta.get("dataset_meta") or {}
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if names is None:
        names = COCO if classes == len(COCO) else [f"class {i}" for i in range(classes)]
    if len(names) != classes:
        raise UserError(f"the checkpoint names {len(names)} categories but its weights are for {classes}")
    if list(names) == list(COCO):
        return [Category(key, name) for name, key in COCO.items()]
    return [Category(i + 1, name) for i, name in enumerate(names)]
