"""Fixtures: a real SLURM on loopback for the whole session, and toy workflows that run on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import loopback
import pytest
from toy_workflow import Workflow


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    """Two nodes with accounting; preemption sends USR2."""
    yield from _cluster(tmp_path_factory, nodes=2)


@pytest.fixture(scope="session")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback.Loopback]:
    """One node, no accounting; preemption sends TERM, as it does where nobody has set it up."""
    yield from _cluster(tmp_path_factory, nodes=1, accounting=False, user_signal=False)


def _cluster(factory: pytest.TempPathFactory, **options: object) -> Iterator[loopback.Loopback]:
    reason = loopback.why_not(accounting=bool(options.get("accounting", True)))
    if reason:
        pytest.skip(reason)
    with loopback.running(factory.mktemp("slurm"), **options) as running:
        yield running


@pytest.fixture
def workflow(cluster: loopback.Loopback, tmp_path: Path) -> Iterator[Workflow]:
    yield from _workflow(tmp_path, cluster)


@pytest.fixture
def bare_workflow(bare_cluster: loopback.Loopback, tmp_path: Path) -> Iterator[Workflow]:
    yield from _workflow(tmp_path, bare_cluster)


@pytest.fixture
def local_workflow(tmp_path: Path) -> Iterator[Workflow]:
    """Without any cluster."""
    yield from _workflow(tmp_path, None)


def _workflow(folder: Path, cluster: loopback.Loopback | None) -> Iterator[Workflow]:
    toy = Workflow(folder, cluster)
    try:
        yield toy
    finally:
        toy.close()
