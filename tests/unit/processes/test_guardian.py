"""The guardian kills the process groups that a dead driver leaves behind, and no others."""

from __future__ import annotations

import signal
import subprocess

from gpuexec.processes.guardian import Guardian


def test_a_guardian_kills_the_groups_it_still_watches():
    guardian = Guardian()
    watched, forgotten = (subprocess.Popen(["sleep", "1000"], process_group=0) for _ in range(2))
    guardian.watch(watched.pid)
    guardian.watch(forgotten.pid)
    guardian.forget(forgotten.pid)
    guardian._process.communicate()  # end of file, as when the driver dies
    assert watched.wait() == -signal.SIGKILL
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_a_closed_guardian_kills_nothing_and_ignores_further_calls():
    guardian = Guardian()
    process = subprocess.Popen(["sleep", "1000"], process_group=0)
    guardian.watch(process.pid)
    guardian.close()
    guardian.watch(process.pid)
    assert process.poll() is None
    process.kill()
    process.wait()
