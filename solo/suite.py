"""Suites and studies: which runs there are, and the configuration of each.

    solo config --model workflow/config/zoo/solo_r50_3x.yaml --suite workflow/config/suites/smoke.yaml --out config.yaml

A suite is a layer over the zoo's models; a study is a set of layers over one model. A study's setting that comes out
equal to a zoo model is that model's run, so nothing is trained twice.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from solo.artifacts import write_text
from solo.config import RunConfig, Section
from solo.errors import UserError, unknown
from solo.layers import describe, load, nested, parse_assignments, read_yaml

ZOO = ("solo_r50_1x", "solo_r50_3x", "decoupled_solo_r50_1x", "decoupled_solo_r50_3x", "decoupled_solo_light_r50_3x")


class Suite(Section):
    """One way to fill the table."""

    name: str = Field(description="folder below results/")
    description: str = Field(description="one sentence for the table and the report")
    source: Literal["train", "published"] = Field("train", description="where model.pth comes from")
    data: str = Field(description="synth (drawn), coco2017 (fetched), or a folder in COCO layout")
    models: tuple[str, ...] = Field(ZOO, min_length=1, description="rows")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="runs per row")
    threads: int = Field(8, gt=0, description="CPU threads of a training and of a prediction")
    repeats: int = Field(20, gt=0, description="timed repeats of each figure of a benchmark")
    gpus: int = Field(0, ge=0, description="GPUs that a training, a prediction and a benchmark ask the cluster for")
    mem_mb: int = Field(16000, gt=0, description="memory that each of them asks for, MB")
    runtime: int = Field(24 * 60, gt=0, description="time limit of a training on a cluster, minutes")
    overrides: dict[str, Any] = Field(default_factory=dict, description="sections over every model")
    model_overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="sections over one model")


class Step(Section):
    """One value of an axis."""

    label: str = Field(description="as it stands in the table")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted field to value; empty: the base's own")


class Study(Section):
    """An ablation: the product of its axes over a base model."""

    name: str = Field(description="study, as in results/published_ablations.csv")
    title: str = Field(description="heading of the table and the plot")
    base: str = Field("solo_r50_1x", description="zoo model that every setting starts from")
    axes: dict[str, tuple[Step, ...]] = Field(min_length=1, description="axis name to its values")
    suites: dict[str, dict[str, tuple[Step, ...]]] = Field(
        default_factory=dict, description="other axes for a suite whose models have another size"
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="runs per setting")

    def settings(self, suite: str) -> list[tuple[str, dict[str, Any]]]:
        """Every combination of the axes for a suite: label, and dotted overrides."""
        axes = self.suites.get(suite, self.axes)
        return [
            (", ".join(step.label for step in steps), {k: v for step in steps for k, v in step.set.items()})
            for steps in itertools.product(*axes.values())
        ]


def read_suite(path: str | Path) -> Suite:
    """Read a suite file; raises UserError on unknown keys or values."""
    suite: Suite = _read(path, Suite)
    for model in (*suite.models, *suite.model_overrides):
        if model not in ZOO:
            raise unknown(f"model in {path}", model, ZOO)
    return suite


def read_study(path: str | Path) -> Study:
    """Read a study file; raises UserError on unknown keys or values."""
    study: Study = _read(path, Study)
    if study.base not in ZOO:
        raise unknown(f"base in {path}", study.base, ZOO)
    return study


def _read(path: str | Path, kind: type[Section]) -> Any:
    try:
        return kind.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(describe(e, kind) for e in error.errors())) from None


def resolve(
    model_file: str | Path, suite: Suite | None, setting: Mapping[str, Any], seed: int, assignments: Mapping[str, Any]
) -> RunConfig:
    """The complete configuration of one run: zoo model, suite, the suite's word on the model, setting, assignments."""
    zoo = load(model_file)
    layers: list[Mapping[str, Any]] = [nested(setting), assignments]
    if suite is not None:
        layers = [suite.overrides, suite.model_overrides.get(zoo.name, {}), *layers]
    run = load(model_file, *layers)
    name = suite.name if suite is not None else "none"
    return run.model_copy(update={"suite": name, "seed": seed, "setting": dict(setting)})


def run_name(model: str, setting: Mapping[str, Any], suite: Suite, zoo: Path) -> str:
    """The folder of a setting: the zoo model whose configuration it equals, else `<model>--<digest>`."""
    digest = resolve(zoo / f"{model}.yaml", suite, setting, 0, {}).config.digest()
    for name in suite.models:
        if resolve(zoo / f"{name}.yaml", suite, {}, 0, {}).config.digest() == digest:
            return name
    return f"{model}--{digest[:8]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `solo config`."""
    parser.add_argument("--model", required=True, help="zoo file, workflow/config/zoo/<model>.yaml")
    parser.add_argument("--suite", help="suite file, workflow/config/suites/<suite>.yaml")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument(
        "--setting", nargs="*", default=[], metavar="KEY=VALUE", help="ablation setting, recorded as such"
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="other overrides")
    parser.add_argument("--out", help="config.yaml to write; default: print it")


def run(args: argparse.Namespace) -> None:
    """Write or print a resolved configuration."""
    suite = read_suite(args.suite) if args.suite else None
    setting = dict(_flat(parse_assignments(args.setting)))
    resolved = resolve(args.model, suite, setting, args.seed, parse_assignments(args.set))
    if args.out:
        write_text(args.out, resolved.to_yaml())
    else:
        sys.stdout.write(resolved.to_yaml())


def _flat(sections: Mapping[str, Any], prefix: str = "") -> Any:
    for key, value in sections.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
