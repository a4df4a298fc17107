"""The seed of this run, the pairs of networks, and the table at the end."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import ledger

THIRD_PARTY_WARNINGS = (
    "ignore:torch.meshgrid:UserWarning",  # mmdet's coordinates
    "ignore:__array__ implementation:DeprecationWarning",  # pycocotools under numpy 2
)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in THIRD_PARTY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def _needs_the_peer():
    if importlib.util.find_spec("mmdet") is None:
        pytest.skip("mmdet is not installed: pip install -e '.[parity]'")


@pytest.fixture(autouse=True)
def _precise():
    """Plain float32, and the threads as they were afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng(request):
    """Random numbers of this run and this test."""
    return np.random.default_rng(ledger.seed_of(request.node.nodeid.split("/")[-1]))


def pytest_report_header():
    return f"SOLO_PARITY_SEED={ledger.SEED}"


def pytest_terminal_summary(terminalreporter):
    if ledger.observed:
        ledger.save()
        rows = [
            {"section": section, "model": model, "tolerance": ledger.TOLERANCES[section].limit, **entry}
            for (section, model), entry in ledger.observed.items()
        ]
        terminalreporter.section(f"parity with mmdetection, SOLO_PARITY_SEED={ledger.SEED}")
        for line in ledger.table(rows):
            terminalreporter.write_line(line)
