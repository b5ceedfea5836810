"""Traces of a run and of PyTorch's profiler, put together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gpuexec.errors import RunNotFound
from gpuexec.report.trace_clock import TraceClock, base_of
from gpuexec.report.trace_merge import merged_traces
from tests.unit.report.trace_processor import read_by_perfetto

# What PyTorch 2.14 writes for one matrix product, at POSIX time 1795958947.9 (shortened).
TORCH = Path(__file__).with_name("torch_profile.json")
TORCH_AT = 1_795_958_947.885_195


def trace(path: Path, at: float, name: str = "embed", pid: int = 77) -> Path:
    """A trace of one slice that begins at a POSIX time."""
    clock = TraceClock(0.0, at)
    event = {"ph": "X", "name": name, "pid": pid, "tid": 1, "ts": clock.at(0.0), "dur": 50_000.0, "args": {}}
    document = {"displayTimeUnit": "ms", "baseTimeNanoseconds": clock.base * 10**9, "traceEvents": [event]}
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    return path


def test_our_clock_is_the_one_of_the_profiler():
    assert base_of(TORCH_AT) * 10**9 == json.loads(TORCH.read_text())["baseTimeNanoseconds"]


def test_a_profile_lies_where_its_batch_does(tmp_path):
    ours = trace(tmp_path / "run.json.gz", TORCH_AT - 0.005)
    with read_by_perfetto(merged_traces([ours, TORCH])) as session:
        assert session.errors() == []
        (found,) = session.rows(
            "select b.ts - a.ts as later, a.dur > b.dur as longer from slice a join slice b "
            "where a.name = 'embed' and b.name = 'forward'"
        )
    assert found["later"] == pytest.approx(5e6, abs=1e6)  # ns; the profile's begin is rounded in TORCH_AT
    assert found["longer"] == 1


def test_perfetto_reads_each_by_itself(tmp_path):
    for content in (trace(tmp_path / "run.json.gz", TORCH_AT).read_bytes(), TORCH.read_bytes()):
        with read_by_perfetto(content) as session:
            assert session.errors() == []


def test_traces_with_other_clocks_are_brought_to_the_first_ones(tmp_path):
    first, second = trace(tmp_path / "a", TORCH_AT, "a", 1), trace(tmp_path / "b", TORCH_AT + 10_000_000, "b", 2)
    document = json.loads(gzip.decompress(merged_traces([first, second])))
    times = {event["name"]: event["ts"] for event in document["traceEvents"]}
    assert times["b"] - times["a"] == pytest.approx(1e13)


def test_a_list_of_events_is_a_trace_too(tmp_path):
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"ph": "i", "s": "g", "name": "x", "pid": 1, "tid": 1, "ts": 5}]))
    document = json.loads(gzip.decompress(merged_traces([trace(tmp_path / "a", TORCH_AT), listed])))
    assert [event["name"] for event in document["traceEvents"]] == ["embed", "x"]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"3", b'{"traceEvents": 5}', b"\x1f\x8b\x08\x00", b"\xff"])
def test_what_is_no_trace_is_refused(tmp_path, content):
    file = tmp_path / "odd"
    file.write_bytes(content)
    with pytest.raises(RunNotFound, match="no trace"):
        merged_traces([file])
    with pytest.raises(RunNotFound, match="no trace"):
        merged_traces([tmp_path / "missing"])
