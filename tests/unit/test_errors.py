"""Errors tell their story and survive the way between processes."""

from __future__ import annotations

import pickle

from gpuexec.errors import GpuexecError, WorkerDied


def died(**changes) -> WorkerDied:
    fields = {
        "stage": "embed",
        "worker_id": "embed-1",
        "exit_code": -9,
        "cause": "killed by SIGKILL (signal 9)",
        "phase": "process",
        "task_ids": [f"0_{i}" for i in range(10)],
        "last_lines": ["loading", "allocating"],
    }
    return WorkerDied(**{**fields, **changes})


def test_a_death_tells_who_when_how_and_with_what():
    text = str(died())
    assert text.splitlines()[0] == (
        "worker 'embed-1' of stage 'embed' died during process: killed by SIGKILL (signal 9)"
    )
    assert "tasks in hand: 0_0, 0_1, 0_2, 0_3, 0_4, 0_5, 0_6, 0_7 …" in text
    assert text.endswith("    | loading\n    | allocating")
    assert isinstance(died(), GpuexecError)


def test_a_death_without_tasks_or_lines_is_one_line():
    assert "\n" not in str(died(task_ids=(), last_lines=()))


def test_a_death_can_be_pickled():
    again = pickle.loads(pickle.dumps(died()))
    assert str(again) == str(died())
    assert (again.exit_code, again.last_lines, len(again.task_ids)) == (-9, ("loading", "allocating"), 10)
