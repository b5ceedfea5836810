"""GPUEXEC_NVTX=1: ranges of the real ``nvtx``, recorded by a tool that it loads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import nvtx_tool
from tests.nvtx_tool import Range, ranges_in
from tests.process.running import logged, run_local
from tests.process.stages import Apply, Journal, items, same


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvtx_tool.build(tmp_path_factory.mktemp("nvtx"))


@pytest.fixture
def log(tool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ranges"
    for name, value in zip(nvtx_tool.VARIABLES, (tool, path), strict=True):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("GPUEXEC_NVTX", "1")
    return path


def names(ranges: list[Range]) -> list[tuple[int, str]]:
    return [(one.depth, one.message) for one in ranges]


def fail_at_two(value: int) -> int:
    if value == 2:
        raise LookupError(value)
    return value


def test_ranges_of_methods_and_batches(log: Path, tmp_path: Path):
    run_local([Journal(tmp_path / "calls")], items(1, 2))
    on_node, worker = sorted(ranges_in(log).values(), key=len)
    assert names(on_node) == [(0, "journal: setup_on_node")]
    one_batch = [(1, "journal"), (0, "batch")]
    assert names(worker) == [(0, "journal: setup"), *one_batch, *one_batch, (0, "journal: teardown")]
    assert {one.domain for one in worker} == {"gpuexec"}
    batches = [one.payload for one in worker if one.message == "batch"]
    assert len(set(batches)) == 2
    assert -1 not in batches


def test_fused_stages_have_ranges_of_their_own(log: Path):
    ran = run_local([Apply(same, "first"), Apply(same, "second")], items(1))
    (worker,) = (ranges for ranges in ranges_in(log).values() if (0, "batch") in names(ranges))
    assert [name for name in names(worker) if ":" not in name[1]] == [(1, "first"), (1, "second"), (0, "batch")]
    assert ran.data == [1]


@pytest.mark.parametrize("options", [{"on_task_failure": "quarantine"}, {"retry_on": LookupError, "max_attempts": 2}])
def test_ranges_end_with_what_raises(log: Path, options):
    """Each process's ranges are checked to nest and to end, also where the stage raises."""
    raises = None if "on_task_failure" in options else LookupError
    run_local([Apply(fail_at_two)], items(1, 2, 3), raises=raises, capsules=False, **options)
    messages = [one.message for ranges in ranges_in(log).values() for one in ranges]
    assert messages.count("batch") >= 2
    assert messages.count("apply: teardown") == messages.count("apply: setup")


def test_without_the_variable_nothing_is_recorded(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GPUEXEC_NVTX")
    run_local([Apply(same)], items(1))
    assert not log.exists()


def test_a_missing_package_is_told_and_the_run_goes_on(log: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with logged() as lines:
        assert run_local([Apply(same)], items(1)).data == [1]
    assert any("the package nvtx is not installed" in line for line in lines)
