"""Where a reading of GPU memory comes from, and why there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.errors import GpuShareExceeded
from gpuexec.worker.memory import GpuProbe, NoProbe, probe_for
from tests.nvml_sim import nodes, simulator
from tests.nvml_sim.nodes import GIB


def share(uuid: str) -> GpuShare:
    return GpuShare(0, uuid, "GPU", 1.0, None)


def one_batch(*uuids: str) -> dict[str, float]:
    probe = probe_for(Allocation(tuple(map(share, uuids))))
    try:
        probe.before_batch()
        return probe.after_batch()
    finally:
        probe.close()


def test_a_worker_without_a_gpu_measures_nothing():
    assert isinstance(probe_for(Allocation()), NoProbe)
    assert one_batch() == {}


def test_the_entry_of_this_process(nvml_node):
    nvml_node(nodes.small())
    simulator.hold_memory(0, 2 * GIB)
    assert one_batch(nodes.uuid(0)) == {
        "gpuexec.gpu0.process_used_bytes": 2.0 * GIB,
        "gpuexec.gpu0.process_peak_bytes": 2.0 * GIB,
        "gpuexec.gpu0.memory_source.nvml_process": 1.0,
    }


def absent(reason: str) -> dict[str, float]:
    return {"gpuexec.gpu0.memory_source.absent": 1.0, f"gpuexec.gpu0.memory_absent.{reason}": 1.0}


def test_hidden_pids_and_missing_readings(nvml_node):
    node = nvml_node(nodes.small())
    simulator.hold_memory(0, None)  # as WSL lists a process
    assert one_batch(nodes.uuid(0)) == absent("listed_without_size")
    node.change(lambda d: d.update(hide_pids=True))
    assert one_batch(nodes.uuid(0)) == absent("not_listed_by_nvml")
    assert one_batch(nodes.uuid(7)) == absent("device_not_found")


def test_a_share_is_checked_by_the_peak_since_the_last_check(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0, 80)))
    part = GpuShare(0, nodes.uuid(0), "GPU", 0.25, 20 * GIB, 80 * GIB)
    probe = GpuProbe([part], checks_share=True)
    try:
        probe.check_share()  # it holds nothing
        simulator.hold_memory(0, 21 * GIB)
        with pytest.raises(GpuShareExceeded, match=r"held 21.00 GiB of GPU 0, more than its share of 20.00 GiB"):
            probe.check_share()
        simulator.hold_memory(0, 20 * GIB)
        probe.check_share()
        probe.before_batch()
        assert probe.after_batch()["gpuexec.gpu0.process_used_bytes"] == 20 * GIB
    finally:
        probe.close()
    unchecked = probe_for(Allocation((part,)))
    simulator.hold_memory(0, 21 * GIB)
    unchecked.check_share()
    unchecked.close()


def test_a_driver_that_went_away(nvml_node):
    nvml_node({**nodes.small(), "init_error": 9})
    assert one_batch(nodes.uuid(0)) == absent("nvml_unavailable")


def test_mig():
    assert one_batch(nodes.uuid(0, "MIG")) == absent("mig")


def test_closing_twice_is_harmless(nvml_node):
    nvml_node(nodes.small())
    probe = GpuProbe([share(nodes.uuid(0))])
    probe.before_batch()
    probe.close()
    probe.close()


IN_A_CONTAINER = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit.worker.test_memory import one_batch, absent
from tests.nvml_sim import nodes, simulator
simulator.hold_memory(0, 2 * nodes.GIB)  # under our pid here, which belongs to another process outside
assert one_batch(nodes.uuid(0)) == absent("pid_namespace")
"""


def test_pids_of_another_namespace_are_not_trusted(nvml_node):
    unshare = [shutil.which("unshare") or "unshare", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a pid namespace cannot be made here: {error}")
    nvml_node(nodes.small())
    root = str(Path(__file__).parents[3])
    command = [*unshare, sys.executable, "-c", IN_A_CONTAINER, root]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == 0, done.stderr
