"""How the exit of a worker is described: facts, and "probably" only with evidence."""

from __future__ import annotations

import pytest

from gpuexec.hardware.host import read_oom_kills
from gpuexec.processes.reap import describe_exit


@pytest.mark.parametrize(
    ("code", "kills", "expected"),
    [
        (7, None, "exited with code 7"),
        (0, None, "exited with code 0 although nobody asked it to stop"),
        (1, None, "exited with code 1 (an error outside the stage's own code"),
        (143, None, "exited with code 143: another process sent it SIGTERM"),
        (-11, 3, "killed by SIGSEGV (signal 11)"),
        (-9, None, "killed by SIGKILL (signal 9)"),
        (-9, 0, "killed by SIGKILL (signal 9); the cgroup counted no out-of-memory kill, so another process sent"),
        (-9, 2, "killed by SIGKILL (signal 9), probably by the out-of-memory killer: the cgroup counted 2 kill(s)"),
        (-63, None, "killed by signal 63 (signal 63)"),
    ],
)
def test_an_exit_is_described_in_one_line(code, kills, expected):
    text = describe_exit(code, oom_kills=kills)
    assert text.startswith(expected)
    assert ("probably" in text) == (code == -9 and bool(kills))


def test_a_sigkill_comes_with_the_peak_memory():
    assert describe_exit(-9, oom_kills=None, rss_peak_bytes=3 * 2**30).endswith(
        "its memory peaked at 3,072 MiB up to its last finished batch"
    )
    assert "MiB" not in describe_exit(-11, oom_kills=None, rss_peak_bytes=3 * 2**30)


def test_the_out_of_memory_counter_is_a_number_or_unknown():
    assert read_oom_kills() is None or read_oom_kills() >= 0
