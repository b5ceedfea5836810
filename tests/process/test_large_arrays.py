"""Large arrays in memory that is used again: every stage gets what was sent, and nobody else sees what it does."""

from __future__ import annotations

import numpy as np
import pytest

from gpuexec.channel import segments
from tests.process.running import run_local
from tests.process.stages import Apply, items
from tests.process.stages.large_arrays import AddOne, Look, Make, uniform

COUNT = 40


@pytest.mark.parametrize("keep", [set(), {9, 20, 21}], ids=["keeps none", "keeps some"])
def test_arrays_arrive_as_sent_although_workers_die_and_stages_raise(tmp_path, keep):
    add = AddOne(tmp_path, dies_at=frozenset({5, 17}), raises_at=frozenset({11, 30}))
    stages = [Make(), add, Look(frozenset(keep))]
    ran = run_local(stages, items(*range(COUNT)), max_attempts=2, retry_on=("ValueError",), queue_bytes=2**24)
    assert [value for value, _ in ran.data] == list(range(1, COUNT + 1))
    assert [stage.failed_attempts for stage in ran.report.stages] == [0, 4, 0]
    writable = [is_writable for _, is_writable in ran.data]
    assert not writable[0], "it promised not to write, so it got a view"
    assert any(writable) == bool(keep), "a stage that keeps views gets copies"


def test_the_segments_of_initial_tasks_and_of_results_are_used_again(monkeypatch):
    made = []
    create = segments.anonymous_file
    monkeypatch.setattr(segments, "anonymous_file", lambda *given: made.append(given) or create(*given))
    tasks = items(*(uniform(value) for value in range(COUNT)))
    ran = run_local([Apply(np.negative).with_(fuse=False)], tasks, queue_bytes=2**23)
    assert all((data == 256 - value).all() for value, data in enumerate(ran.data[1:], 1))
    assert all(data.flags.writeable for data in ran.data)
    assert len(made) < COUNT // 2


def test_what_a_read_only_stage_passes_on_is_writable_again(tmp_path):
    keep_nothing = Apply(_same, name="pass").with_(reads_only=True, fuse=False)
    ran = run_local([Make(), keep_nothing, AddOne(tmp_path), Look()], items(*range(8)))
    assert [value for value, _ in ran.data] == list(range(1, 9))


def _same(value: object) -> object:
    return value
