"""What is said of a process that ended unasked: facts, and "probably" only with evidence."""

from __future__ import annotations

import pytest

from gpuexec.processes.reap import describe_exit


@pytest.mark.parametrize(
    ("code", "kills", "said"),
    [
        (7, None, "it exited with code 7"),
        (0, None, "it exited with code 0 although it was not asked to stop"),
        (1, None, "it exited with code 1 (an error outside the stage's own code"),
        (143, None, "it exited with code 143: somebody else sent it SIGTERM"),
        (-11, 3, "killed by SIGSEGV (signal 11)"),
        (-9, None, "killed by SIGKILL (signal 9)"),
        (-9, 0, "killed by SIGKILL (signal 9); the cgroup's out-of-memory counter did not move, so somebody sent it"),
        (-9, 2, "killed by SIGKILL (signal 9), probably by the out-of-memory killer: the cgroup counted 2 kill(s)"),
        (-63, None, "killed by signal 63 (signal 63)"),
    ],
)
def test_an_end_in_one_line(code, kills, said):
    text = describe_exit(code, oom_kills=kills)
    assert text.startswith(said)
    assert ("probably" in text) == (code == -9 and bool(kills))


def test_the_last_memory_reading():
    assert describe_exit(-9, oom_kills=None, rss_peak_bytes=3 * 2**30).endswith("at most 3,072 MiB of memory")
    assert "MiB" not in describe_exit(-11, oom_kills=None, rss_peak_bytes=3 * 2**30)
