"""What others on the machine could reach: nothing."""

from __future__ import annotations

import json
import os
import stat

import psutil
import pytest

from gpuexec import LocalExecutor, Pipeline
from gpuexec.channel.messages import BY_KIND
from gpuexec.channel.wire import encode_frame
from tests.process.stages import Apply, items


def connections_of_both(_):
    """Internet sockets of this worker and its driver, and the names of their local sockets."""
    found = []
    for pid in (os.getpid(), os.getppid()):
        found += [str(c) for c in psutil.Process(pid).net_connections(kind="inet")]
        found += [c.laddr for c in psutil.Process(pid).net_connections(kind="unix") if c.laddr]
    return found


def test_nothing_listens_and_no_socket_has_a_name():
    (task,) = Pipeline("p", stages=[Apply(connections_of_both)]).run(
        LocalExecutor(show_progress=False), initial_tasks=items(1)
    )
    assert task.data == []


def fail(_):
    raise ValueError("no")


def test_folders_of_runs_are_the_users_own(tmp_path):
    capsules, checkpoint = tmp_path / "capsules", tmp_path / "checkpoint"
    executor = LocalExecutor(show_progress=False, capsule_dir=capsules, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="no"):
        Pipeline("p", stages=[Apply(fail)]).run(executor, initial_tasks=items(1))
    (capsule,) = capsules.iterdir()
    for folder in (capsule, checkpoint / ".gpuexec"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())


def test_control_messages_are_plain_json():
    """So reading one runs no code, whatever a worker sends."""
    for cls in BY_KIND.values():
        names = [name for name in cls._fields if name != "payloads"]
        frame, _ = encode_frame(cls(*([None] * len(names))))
        head = 16
        assert json.loads(frame[head:]) == [[None] * len(names), []]
