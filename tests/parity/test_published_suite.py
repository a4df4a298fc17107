"""The published suite through the DAG: checkpoints that the peer wrote, from a mirror folder to rows of the table.

The peer cannot write files with the published names, which hold the contents' checksum: `solo.sources` is told the
names of its own files. Everything else is the command that a person with a network types.
"""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from solo.coco_categories import COCO
from tests.conftest import ROOT
from tests.golden import fill
from tests.parity import checkpoints, ledger, small_coco
from tests.parity.peer import CONFIGS, Peer
from tests.parity.test_published import FORMS

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.timeout(1200)]
OTHER_NAMES = """
import dataclasses, json, os
import solo.sources as sources
for model, name in json.loads(os.environ["CHECKPOINT_NAMES"]).items():
    url = sources.CHECKPOINTS[model].url.rsplit("/", 1)[0] + "/" + name
    sources.FILES[model] = sources.CHECKPOINTS[model] = dataclasses.replace(sources.CHECKPOINTS[model], url=url)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout after `snakemake published`, and what it printed."""
    root = tmp_path_factory.mktemp("published")
    mirror, patch, checkout = root / "mirror", root / "patch", root / "checkout"
    for folder in (mirror, patch, checkout / "results"):
        folder.mkdir(parents=True)
    data = small_coco.with_coco_categories(small_coco.drawn(root / "photos", 1, 4, 128, seed=ledger.SEED))
    shutil.rmtree(data / "train2017")  # this suite trains nothing
    (data / "annotations/instances_train2017.json").unlink()
    names = {}
    for model in CONFIGS:
        peer = Peer(model)
        fill.fill(peer.state(), ledger.seed_of(model))
        form, optimizer = FORMS[model]
        names[model] = checkpoints.write(peer, model, form, tuple(COCO), mirror, optimizer).name
    (patch / "sitecustomize.py").write_text(OTHER_NAMES)
    for name in ("workflow", "profiles"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(ROOT / name, checkout / name)
    for path in (ROOT / "results").glob("published*.csv"):
        shutil.copy(path, checkout / "results")
    suite = checkout / "workflow/config/suites/published.yaml"
    small = {"input": {"image_scale": [128, 96]}, "test": {"score_threshold": 0.5}}
    suite.write_text(yaml.safe_dump({**yaml.safe_load(suite.read_text()), "overrides": small}))
    config = ["suite=published", f"data={data}", f"mirror={mirror}"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "table", "--config", *config],
        cwd=checkout, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{patch}{os.pathsep}{ROOT}", "CHECKPOINT_NAMES": json.dumps(names)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout / "results/published-photos"


def test_every_row_has_its_figures_and_a_verdict(finished):
    with (finished / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == list(CONFIGS)
    for row in rows:
        metrics = json.loads((finished / row["model"] / "seed0/metrics.json").read_text())
        assert float(row["ap"]) == pytest.approx(metrics["metrics"]["AP"], abs=0.06)
        assert row["verdict"]


def test_nothing_was_trained_and_the_model_knows_where_it_is_from(finished):
    for model in CONFIGS:
        run = finished / model / "seed0"
        assert not (run / "train.json").exists()
        assert json.loads((run / "speed.json").read_text())["training_step"] is None
        assert json.loads((run / "record.json").read_text())["model"] == model
