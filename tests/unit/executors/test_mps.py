"""Which use a run makes of MPS, by its options and by what runs already."""

from __future__ import annotations

import pytest

from gpuexec.errors import ConfigurationError
from gpuexec.executors.mps import MpsUse, mps_use
from gpuexec.hardware.model import Device, GpuProcess
from gpuexec.hardware.mps import ControlDaemon
from gpuexec.planning.model import StageDemand
from gpuexec.policies import GpuPinning, MpsPolicy

OFF, AUTO, START = MpsPolicy.OFF, MpsPolicy.AUTO, MpsPolicy.START
GPU = Device(0, "GPU-a", "GPU", None, None)
SLICE = Device(0, "MIG-a", "GPU", None, None, is_mig=True)
SERVED = Device(0, "GPU-a", "GPU", None, None, processes=(GpuProcess(7, 1, "compute", "nvidia-cuda-mps"),))
DAEMON = ControlDaemon(5, "/pipes")


def use(
    policy: MpsPolicy, *, daemon: ControlDaemon | None = None, device: Device = GPU, gpus: float = 0.5
) -> tuple[bool, bool, bool]:
    """Return whether it limits, starts and serves."""
    found = mps_use(policy, GpuPinning.UUID, [StageDemand("s", gpus=gpus)], [device], daemon)
    return found.limits, found.starts, found.serves


def test_nothing_is_done_unless_the_option_says_so_but_a_daemon_is_noticed():
    assert use(OFF) == (False, False, False)
    assert use(OFF, daemon=DAEMON) == use(START, daemon=DAEMON, gpus=1) == (False, False, True)


@pytest.mark.parametrize("policy", [AUTO, START])
def test_what_runs_already_is_used(policy: MpsPolicy):
    assert use(policy, daemon=DAEMON) == (True, False, True)
    assert use(policy, device=SERVED) == (True, False, False), "where its server is, the list of processes says"


def test_one_is_started_only_on_request_and_for_parts_of_whole_gpus():
    assert use(AUTO) == (False, False, False)
    assert use(START) == (True, True, True)
    assert use(START, gpus=2) == (False, False, False)
    assert use(START, device=SLICE) == (False, False, False)


def test_a_private_daemon_numbers_its_gpus_anew():
    with pytest.raises(ConfigurationError, match="mps='start' cannot be combined with gpu_pinning='index'"):
        mps_use(START, GpuPinning.INDEX, [StageDemand("s", gpus=0.5)], [GPU], None)


def test_devices_are_marked_where_a_daemon_serves_them():
    assert [device.mps for device in MpsUse(serves=True).marked([GPU])] == [True]
    assert [device.mps for device in MpsUse(limits=True).marked([GPU])] == [False]
