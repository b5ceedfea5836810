"""Runs where neither the driver's Python nor the workers' has ``pidfd_open`` and ``memfd_create``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.channel import anonymous
from gpuexec.errors import WorkerDied
from gpuexec.processes import exit_watch
from tests.process import stages
from tests.process.running import ROOT, local_executor, run_local
from tests.process.stages import Apply, Journal, big_array, items, write_into

SITE = """
import os, sys
if "gpuexec.worker" in sys.orig_argv:
    del os.pidfd_open, os.memfd_create
"""


@pytest.fixture(autouse=True)
def neither(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(ROOT)]))
    monkeypatch.setattr(exit_watch, "_offers_pidfd", False)
    monkeypatch.setattr(anonymous, "_offers_memfd", False)


def test_the_workers_have_neither():
    ran = run_local([Apply(stages.has_memfd)], items(0))
    assert ran.data == [False]
    assert not ran.report.templates
    assert not ran.report.workers[0].warm


def test_large_tasks_travel():
    ran = run_local([Apply(big_array, "make"), Apply(write_into, "add")], items(*range(12)))
    assert ran.data == [1_000_000 * (i + 1) for i in range(12)]


def test_the_caller_stops_early():
    finished = local_executor().execute_iter([Apply(big_array)], items(*range(12)))
    next(finished)
    finished.close()


def test_a_dead_worker_is_noticed_and_its_batch_blamed(tmp_path: Path):
    ran = run_local([Apply(stages.segfault)], items(1), raises=WorkerDied, max_attempts=2)
    assert isinstance(ran.error, WorkerDied)
    assert ran.error.exit_code == -11
    assert len(ran.error.task_ids) == 1


def test_a_hung_worker_is_killed():
    ran = run_local([Apply(stages.hang)], items(1), raises=WorkerDied, max_attempts=1, batch_timeout_s=0.5)
    assert "batch_timeout_s" in str(ran.error)


def test_setup_and_teardown(tmp_path: Path):
    log = tmp_path / "log"
    run_local([Journal(log, workers=2, await_setups=2)], items(*range(8)))
    assert log.read_text().count("teardown") == 2
