"""Where the workflow puts things: suites, runs and paths for the Snakefile, without torch.

A suite's folder is its name; with data of one's own it is `<suite>-<data folder>`, so that figures of different data
never share a table.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from solo.config import RunConfig
from solo.errors import UserError, unknown
from solo.layers import describe
from solo.sources import BACKBONES, CHECKPOINTS
from solo.suite import ZOO, Study, Suite, read_study, read_suite, resolve, run_name

CONFIG = Path("workflow/config")


class WorkflowConfig(BaseModel):
    """workflow/config/config.yaml and `snakemake --config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = Field("smoke", description="suite that `table`, `report` and `plan` are about")
    data: str | None = Field(None, description="folder in COCO layout instead of the suite's own data")
    seeds: list[int] | None = Field(None, min_length=1, description="seeds instead of the suite's own")
    models: list[str] | None = Field(None, min_length=1, description="zoo models instead of the suite's own")
    results: str = Field("results", description="folder of everything that is made")
    downloads: str = Field("data", description="folder of COCO, ImageNet weights and published checkpoints")
    mirror: str | None = Field(None, description="folder or URL that holds the downloads")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="device of training and measuring")


class Layout:
    """The workflow's settings as paths and lists.

    Args:
        settings: Snakemake's config.
        root: folder of the Snakefile.

    Raises:
        UserError: an unknown key, suite or model, or a data folder that is not there.
    """

    def __init__(self, settings: Mapping[str, Any], root: str | Path) -> None:
        try:
            self.config = WorkflowConfig.model_validate(dict(settings))
        except ValidationError as error:
            raise UserError("; ".join(describe(e, WorkflowConfig) for e in error.errors())) from None
        self.root, self.results = Path(root), self.config.results
        self.suites = {path.stem: read_suite(path) for path in sorted((self.root / CONFIG / "suites").glob("*.yaml"))}
        if self.config.suite not in self.suites:
            raise unknown("suite", self.config.suite, self.suites)
        for model in self.config.models or ():
            if model not in ZOO:
                raise unknown("model", model, ZOO)
        self.files = {name: str(CONFIG / "suites" / f"{name}.yaml") for name in self.suites}
        self.chosen = self._choose()

    def _choose(self) -> str:
        """The folder of the suite that is asked for, with the data, seeds and models of the command line."""
        name, suite = self.config.suite, self.suites[self.config.suite]
        folder = name
        changes: dict[str, Any] = {}
        if self.config.data is not None:
            if not Path(self.config.data).is_dir():
                raise UserError(f"data folder {self.config.data!r} does not exist; give a folder in COCO layout")
            folder = f"{name}-{Path(self.config.data).resolve().name}"
            changes["data"] = self.config.data
        if self.config.seeds is not None:
            changes["seeds"] = tuple(self.config.seeds)
        if self.config.models is not None:
            changes["models"] = tuple(self.config.models)
        self.suites[folder] = suite.model_copy(update=changes)
        self.files[folder] = self.files[name]
        return folder

    def suite(self, folder: str) -> Suite:
        """The suite of a folder below results/."""
        return self.suites[folder]

    def model_file(self, run: str) -> str:
        """The zoo file of a run."""
        return str(CONFIG / "zoo" / f"{run.split('--')[0]}.yaml")

    def data(self, folder: str) -> str:
        """The data folder of a suite."""
        data = self.suite(folder).data
        return f"{self.config.downloads}/{data}" if data in ("synth", "coco2017") else data

    def is_published(self, folder: str) -> bool:
        """Whether the suite's models are downloaded instead of trained."""
        return self.suite(folder).source == "published"

    def run_dirs(self, folder: str) -> list[str]:
        """Every run of a suite's own table."""
        suite = self.suite(folder)
        return [f"{self.results}/{folder}/{model}/seed{seed}" for model in suite.models for seed in suite.seeds]

    def resolved(self, folder: str, run: str) -> RunConfig:
        """The configuration of a run, seed 0."""
        setting = self.settings(folder)[run] if "--" in run else {}
        return resolve(self.root / self.model_file(run), self.suite(folder), setting, 0, {})

    def digest(self, folder: str, run: str) -> str:
        """The digest of everything in a run's configuration that bears on its result."""
        return self.resolved(folder, run).config.digest()

    def weights(self, folder: str, run: str) -> list[str]:
        """The ImageNet weights that a run starts from: one file, or none."""
        backbone = self.resolved(folder, run).config.backbone
        if backbone.pretrained == "none":
            return []
        return [f"{self.config.downloads}/weights/{BACKBONES[f'resnet{backbone.depth}'].name}"]

    def studies(self) -> dict[str, Study]:
        """Every study in workflow/config/ablations, by file name."""
        return {path.stem: read_study(path) for path in sorted((self.root / CONFIG / "ablations").glob("*.yaml"))}

    def study_runs(self, folder: str, study: Study) -> dict[str, dict[str, Any]]:
        """Run name to setting for a study in a suite; settings that equal a zoo model have that model's name."""
        suite, zoo = self.suite(folder), self.root / CONFIG / "zoo"
        return {run_name(study.base, setting, suite, zoo): setting for _, setting in study.settings(suite.name)}

    def study_dirs(self, folder: str, study: Study) -> list[str]:
        """The run directories of a study."""
        runs = self.study_runs(folder, study)
        return [f"{self.results}/{folder}/{run}/seed{seed}" for run in runs for seed in study.seeds]

    def settings(self, folder: str) -> dict[str, dict[str, Any]]:
        """Run name to setting over all studies, for the runs that are no zoo model."""
        result: dict[str, dict[str, Any]] = {}
        for study in self.studies().values():
            result |= {run: s for run, s in self.study_runs(folder, study).items() if "--" in run}
        return result

    def checkpoint(self, run: str) -> str:
        """The published checkpoint of a model."""
        return f"{self.config.downloads}/checkpoints/{CHECKPOINTS[run].name}"

    def model_of_checkpoint(self, file: str) -> str:
        """The model that a published checkpoint's file name belongs to."""
        return next(model for model, source in CHECKPOINTS.items() if source.name == file)

    def splits(self, folder: str) -> list[str]:
        """The splits that a suite reads."""
        return ["val2017"] if self.is_published(folder) else ["train2017", "val2017"]

    def annotation_files(self, folder: str) -> list[str]:
        """The annotation files of a suite's splits."""
        return [f"{self.data(folder)}/annotations/instances_{split}.json" for split in self.splits(folder)]

    def validation_file(self, folder: str) -> str:
        """The annotation file that predictions are scored against."""
        return self.annotation_files(folder)[-1]

    def records(self, folder: str) -> list[str]:
        """The records of a suite's own table."""
        return [f"{run}/record.json" for run in self.run_dirs(folder)]

    def setting_arguments(self, folder: str, run: str) -> list[str]:
        """An ablation run's overrides as KEY=VALUE words; none for the zoo's own runs."""
        if "--" not in run:
            return []
        settings = self.settings(folder)
        if run not in settings:
            raise unknown("ablation run", run, settings)
        return [f"{key}={json.dumps(value)}" for key, value in settings[run].items()]


def parent(path: str, levels: int = 1) -> str:
    """The folder `levels` above a file."""
    return str(Path(path).parents[levels - 1])


def use_this_python() -> None:
    """Let the rules find the `solo` command that is installed beside this interpreter, activated or not."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
