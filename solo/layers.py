"""YAML files and `--set` assignments, laid over each other and checked into one RunConfig."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from solo.config import RunConfig
from solo.errors import UserError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; raises UserError naming the file and the fault."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, not {type(data).__name__}")
    return data


def merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`layer` over `base`, mapping by mapping; every other value is replaced whole."""
    result = dict(base)
    for key, value in layer.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"head.kind": "solo"}` as `{"head": {"kind": "solo"}}`."""
    result: dict[str, Any] = {}
    for key, value in dotted.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["schedule.lr=0.02"]` as a nested mapping; values are YAML.

    Raises:
        UserError: an assignment without `=`, or a value that is no YAML.
    """
    dotted = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment!r} is not of the form section.key=value")
        try:
            dotted[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {assignment!r}: the value is not YAML") from error
    return nested(dotted)


def load(path: str | Path, *layers: Mapping[str, Any]) -> RunConfig:
    """Read a zoo file or a resolved config.yaml and lay `layers` (nested mappings of sections) over it.

    Raises:
        UserError: unknown keys (the message lists the valid ones) or impossible values.
    """
    data = read_yaml(path)
    data.pop("config_digest", None)
    header = {key: data.pop(key) for key in ("name", "suite", "seed", "setting") if key in data}
    sections = data.pop("config", data)
    for layer in layers:
        sections = merge(sections, layer)
    whole: dict[str, Any] = {"name": Path(path).stem, "config": sections}
    return build(whole | header, str(path))


def build(data: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a mapping into a RunConfig; `where` names its origin in errors."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: " + "; ".join(describe(e, RunConfig) for e in error.errors())) from None


def describe(error: Any, root: type[BaseModel]) -> str:
    """One validation error as a sentence that names the key, the value and what is valid."""
    path = [str(part) for part in error["loc"] if part != "config"]
    if error["type"] == "extra_forbidden":
        owner: Any = root
        for part in error["loc"][:-1]:
            owner = owner.model_fields[part].annotation
        valid = ", ".join(name for name in owner.model_fields if name != "config")
        return f"unknown key {'.'.join(path)!r}; valid keys here: {valid}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{'.'.join(path)}: {message}"
    return f"{'.'.join(path)} = {error['input']!r}: {message}"


def with_classes(run: RunConfig, classes: int) -> RunConfig:
    """The same run with the data set's number of categories (never part of the digest)."""
    head = run.config.head.model_copy(update={"num_classes": classes})
    return run.model_copy(update={"config": run.config.model_copy(update={"head": head})})
