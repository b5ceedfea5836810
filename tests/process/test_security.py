"""What others on the machine could reach: nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import psutil

from gpuexec.channel.messages import BY_KIND
from gpuexec.channel.wire import encode_frame
from tests.process.running import run_local
from tests.process.stages import Apply, fail, items


def connections_of_both(_: object) -> list[str]:
    """Return the Internet sockets of this worker and its driver, and the names of their local sockets."""
    connections = []
    for pid in (os.getpid(), os.getppid()):
        connections += [str(c) for c in psutil.Process(pid).net_connections(kind="inet")]
        connections += [c.laddr for c in psutil.Process(pid).net_connections(kind="unix") if c.laddr]
    return connections


def test_nothing_listens_and_no_socket_has_a_name():
    assert run_local([Apply(connections_of_both)], items(1)).data == [[]]


def test_folders_of_runs_are_the_users_own(tmp_path: Path):
    capsules, checkpoint = tmp_path / "capsules", tmp_path / "checkpoint"
    run_local([Apply(fail)], items(1), raises=ConnectionError, capsule_dir=capsules, checkpoint=checkpoint)
    (capsule,) = capsules.iterdir()
    for folder in (capsule, checkpoint / ".gpuexec"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())


def test_control_messages_are_plain_json():
    """So reading one runs no code, whatever a worker sends."""
    for cls in BY_KIND.values():
        names = [each.name for each in dataclasses.fields(cls) if each.name != "payloads"]
        frame, _ = encode_frame(cls(*([None] * len(names))))
        head = 16
        assert json.loads(frame[head:]) == [[None] * len(names), []]
