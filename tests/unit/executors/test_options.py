"""What an executor keeps of its options, and what it shows."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from loguru import logger

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.config import ExecutorConfig
from gpuexec.executors.progress import progress_for
from gpuexec.observe.progress import LIVE_PERIOD_S, LineProgress, LiveProgress
from gpuexec.observe.relay import LogRelay
from gpuexec.report.model import RunReport


@pytest.mark.parametrize("executor", [InlineExecutor, LocalExecutor])
def test_the_config_is_the_mapping_merged_with_the_keywords(executor):
    made = executor({"queue_tasks": 5, "cpus": 2}, cpus=3)
    assert made.config == {"queue_tasks": 5, "cpus": 3}
    assert (made.options.queue_tasks, made.options.cpus, made.options.max_attempts) == (5, 3.0, 3)


@pytest.mark.parametrize("executor", [InlineExecutor, LocalExecutor])
def test_the_repr_has_the_options_that_differ(executor):
    name = executor.__name__
    assert repr(executor()) == f"{name}()"
    assert repr(executor(cpus=2, show_progress=False)) == f"{name}(show_progress=False, cpus=2.0)"
    secret = executor(runtime_env={"env_vars": {"HF_TOKEN": "hf_secret"}})
    assert repr(secret) == f"{name}(runtime_env={{'env_vars': …}})"


def test_the_inline_executor_names_the_options_without_effect():
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING")
    try:
        InlineExecutor(max_attempts=5, queue_tasks=10, cpus=2)
    finally:
        logger.remove(handler)
    assert any("InlineExecutor ignores queue_tasks, max_attempts:" in line for line in lines)
    with pytest.raises(ConfigurationError, match="keeps no checkpoints"):
        InlineExecutor(checkpoint="folder")


@pytest.mark.parametrize(
    ("options", "terminal", "classes", "period"),
    [
        ({"show_progress": False}, "xterm", [LogRelay], 1.0),
        ({}, "xterm", [LiveProgress], LIVE_PERIOD_S),
        ({}, "dumb", [LogRelay, LineProgress], 1.0),
        ({"progress_interval_s": 3}, None, [LogRelay, LineProgress], 1.0),
    ],
)
def test_the_display_and_its_gauges_agree(monkeypatch, options, terminal, classes, period):
    is_terminal = terminal is not None
    monkeypatch.setenv("TERM", terminal or "xterm")
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: is_terminal, write=lambda _: 0, flush=lambda: 0))
    observers, gauge_period_s = progress_for(ExecutorConfig.create(options), RunReport())
    assert [type(observer) for observer in observers] == classes
    assert gauge_period_s == period
