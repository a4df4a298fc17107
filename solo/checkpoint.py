"""Model files that describe themselves: weights, configuration and categories in one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from solo.artifacts import atomic
from solo.config import RunConfig
from solo.dataset import Category
from solo.errors import UserError
from solo.layers import build
from solo.model.detector import Detector, build_detector

SCHEMA = 1


@dataclass(frozen=True)
class Model:
    """A detector with what is needed to use it."""

    detector: Detector
    run: RunConfig
    categories: list[Category]
    provenance: dict[str, Any]


def save(value: dict[str, Any], path: str | Path) -> None:
    """Write tensors and plain values atomically, to be read with `weights_only=True`.

    Raises:
        UserError: the disk is full.
    """
    try:
        with atomic(path, "wb") as file:
            torch.save(value, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch's writer covers it with an error about positions
            raise UserError(f"cannot write {path}: {error.__context__.strerror}") from None
        raise


def load(path: str | Path, kind: str) -> dict[str, Any]:
    """Read a file that `save` wrote.

    Raises:
        UserError: it is missing, truncated, or holds something else; `kind` names what was expected.
    """
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError or UnpicklingError for damaged files
        raise UserError(f"{path} is no {kind}: it is truncated, damaged or of another format") from error
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise UserError(f"{path} is no {kind}" + (" (use `solo convert` first)" if kind == "SOLO model" else ""))
    return value


def save_model(path: str | Path, model: Model) -> None:
    """Write a model file."""
    save(
        {
            "kind": "SOLO model",
            "schema": SCHEMA,
            "run": model.run.model_dump(mode="json"),
            "categories": [[category.id, category.name] for category in model.categories],
            "provenance": model.provenance,
            "state": model.detector.state_dict(),
        },
        path,
    )


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Read a model file; the detector is in evaluation mode on `device`.

    Raises:
        UserError: the file is no model file, or its weights do not fit its configuration.
    """
    value = load(path, "SOLO model")
    run = build(value["run"], str(path))
    detector = build_detector(run.config.backbone, run.config.head)
    try:
        detector.load_state_dict(value["state"])
    except RuntimeError as error:
        raise UserError(f"{path}: its weights do not fit its configuration: {error}") from error
    categories = [Category(key, name) for key, name in value["categories"]]
    return Model(detector.to(device).eval(), run, categories, value["provenance"])
