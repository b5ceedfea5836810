"""How busy the machine is comes from the kernel; what cannot be read is unknown."""

from __future__ import annotations

import pytest

from gpuexec.driver.host_state import read_host_state
from gpuexec.run_facts import HostState


def test_this_machine_is_read():
    state = read_host_state()
    assert state.load_1m is not None
    assert state.load_1m >= 0
    assert state.memory_available_bytes is not None
    assert state.memory_available_bytes > 2**20


@pytest.mark.parametrize(
    ("loadavg", "meminfo", "expected"),
    [
        ("1.50 0.70 0.30 2/300 4711\n", "MemTotal: 8 kB\nMemAvailable:  4 kB\n", HostState(1.5, 4096)),
        ("", "MemTotal: 8 kB\n", HostState()),
        ("busy\n", None, HostState()),
    ],
)
def test_what_cannot_be_read_is_unknown(tmp_path, loadavg: str, meminfo: str | None, expected: HostState):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(loadavg)
    if meminfo is not None:
        (tmp_path / "proc/meminfo").write_text(meminfo)
    assert read_host_state(tmp_path) == expected
