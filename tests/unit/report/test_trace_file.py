"""The trace's file: bounded, whole at any moment, and it says what it has merged."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.report.trace_file import TraceFile
from gpuexec.report.trace_levels import FACTOR, LEVELS, TraceLevels
from tests.unit.report.trace_checks import check_trace, read_trace
from tests.unit.report.trace_processor import read_by_perfetto

FIRST = json.dumps({"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "ts": 0, "args": {"name": "driver"}})
PIECE = 64
MOST = 61 * PIECE  # as many pieces as a real trace has


class Written:
    """A trace that is written as a run writes it, with short pieces. ``lines`` of it are names that are repeated."""

    def __init__(self, path: Path, most_events: int = MOST) -> None:
        self.path = path
        self.file = TraceFile(path, {"otherData": {"run": "1"}}, FIRST, most_events)
        self.levels = TraceLevels(self.file.add, self.file.end_piece, lambda: [FIRST], PIECE)
        self.slices = 0

    def add_slices(self, count: int, workers: int = 1) -> None:
        for _ in range(count):
            began = 100.0 * (self.slices // workers)
            amounts = {"batches": 1, "process_s": 0.00008}
            self.levels.slice((self.slices % workers + 2, 1), '"embed"', began, began + 90, amounts)
            self.slices += 1
            if not self.slices % 8:
                self.levels.flush()
        self.levels.flush()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("trace")


def batches(trace_events) -> int:
    return sum(e["args"]["batches"] for e in trace_events if e["ph"] == "X")


def test_a_short_trace_has_every_event(tmp_path):
    written = Written(tmp_path / "t.json.gz")
    written.add_slices(500, workers=3)
    written.file.close()
    document = read_trace(written.path)
    found = check_trace(document)
    assert sum(e["ph"] == "X" for e in found) == 500
    assert "gpuexecMerged" not in document
    assert document["otherData"] == {"run": "1"}


@given(counts=st.lists(st.integers(1, 6000), min_size=1, max_size=4), workers=st.integers(1, 20))
@settings(max_examples=15)
def test_a_long_trace_stays_bounded_and_loses_no_batch(folder, counts, workers):
    path = folder / f"{os.urandom(8).hex()}.json.gz"
    written = Written(path)
    for count in counts:
        written.add_slices(count, workers)
        document = read_trace(path)  # also while the run goes on
        found = check_trace(document)
        assert len(found) <= MOST
        assert batches(found) == written.slices
        assert ("gpuexecMerged" in document) == (len(found) < written.slices)
        newest = sorted((e for e in found if e["ph"] == "X"), key=lambda e: e["ts"])[-PIECE:]
        assert all(e["args"]["batches"] == 1 for e in newest)
    written.file.close()
    path.unlink()


def test_where_nothing_can_be_merged_the_oldest_is_dropped_and_the_file_says_so(tmp_path):
    written = Written(tmp_path / "t.json.gz")
    for number in range(600 * PIECE):
        written.levels.keep(f'{{"ph":"i","s":"t","name":"failed","pid":2,"tid":1,"ts":{number}}}')
        if not number % PIECE:
            written.levels.flush()
            if not number % (20 * PIECE):
                assert len(check_trace(read_trace(written.path))) <= MOST
    written.file.close()
    document = read_trace(written.path)
    merged = document["gpuexecMerged"]
    assert merged["leftOut"] > 0
    assert f"{MOST:,} events"[:2] in merged["reason"]
    assert any(e["name"] == merged["reason"] for e in document["traceEvents"])


def test_perfetto_reads_a_trace_whose_older_part_is_merged(tmp_path):
    written = Written(tmp_path / "t.json.gz")
    written.add_slices(20_000, workers=3)
    found = check_trace(read_trace(written.path))
    with read_by_perfetto(written.path.read_bytes()) as session:  # the run goes on
        assert session.errors() == []
        counts = session.rows("select count(*) as slices, sum(dur) > 0 as lasted from slice where name = 'embed'")
        assert counts == [{"slices": sum(e["ph"] == "X" for e in found), "lasted": 1}]
        sums = "select sum(int_value) from args join slice using (arg_set_id) where key = 'args.batches'"
        assert session.value(sums) == 20_000
    written.file.close()


def test_readings_of_a_counter_become_their_mean(tmp_path):
    texts = []
    levels = TraceLevels(lambda text, count: None, texts.append, list, PIECE)
    for value in range(PIECE):
        levels.counter(7, '"queue"', 10.0 * value, {"queued": value})
    levels.flush()
    ((piece,),) = texts
    readings = [json.loads(line.strip(",")) for line in piece.text.decode().splitlines() if line.strip(",")]
    assert [r["args"]["queued"] for r in readings] == [7.5, 23.5, 39.5, 55.5]


def test_a_long_pause_between_slices_stays_visible(tmp_path):
    texts = []
    levels = TraceLevels(lambda text, count: None, texts.append, list, 4)
    for began in (0.0, 100.0, 5e6, 5e6 + 100):
        levels.slice((1, 1), '"embed"', began, began + 90, {"batches": 1})
    levels.flush()
    ((piece,),) = texts
    assert piece.events == 2


def test_every_level_gets_its_piece(tmp_path):
    ended = []
    levels = TraceLevels(lambda text, count: None, ended.append, list, 1)
    for number in range(FACTOR ** (LEVELS - 2)):
        levels.slice((1, 1), '"embed"', number, number + 0.5, {"batches": 1})
        levels.flush()
    assert [piece.level for piece in ended[-1]] == [1, 2, 3]
    assert [piece.level for piece in ended[FACTOR - 1]] == [1, 2]
    assert [piece.level for piece in ended[0]] == [1]


def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path):
    written = Written(tmp_path / "t.json.gz")
    written.add_slices(100)
    before = read_trace(written.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written.path.stat().st_size + 10, hard))
    try:
        with pytest.raises(OSError):
            written.file.add(os.urandom(5000).hex().encode(), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert read_trace(written.path) == before
    written.file.close()
