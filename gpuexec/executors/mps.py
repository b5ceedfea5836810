"""Which use a run makes of NVIDIA's Multi-Process Service. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpuexec.errors import ConfigurationError
from gpuexec.hardware.model import Device
from gpuexec.hardware.mps import ControlDaemon
from gpuexec.hardware.tenants import is_shared_by_mps
from gpuexec.planning.model import StageDemand
from gpuexec.policies import GpuPinning, MpsPolicy
from gpuexec.records import Record


class MpsUse(Record):
    """``limits``: workers with a part of a GPU get limits of MPS. ``starts``: the run has a daemon of its own.

    ``serves``: MPS takes, or will take, the contexts of the workers. ``notes``: for the user.
    """

    limits: bool = False
    starts: bool = False
    serves: bool = False
    notes: tuple[str, ...] = ()

    def marked(self, devices: Sequence[Device]) -> tuple[Device, ...]:
        """Return the devices, marked where MPS lets several processes have one in exclusive mode."""
        return tuple(dataclasses.replace(device, mps=True) if self.serves else device for device in devices)


def mps_use(
    policy: MpsPolicy,
    pinning: GpuPinning,
    demands: Sequence[StageDemand],
    devices: Sequence[Device],
    daemon: ControlDaemon | None,
) -> MpsUse:
    """Decide it. ``daemon``: the one that runs already, which all processes with our environment are clients of.

    Raises ``ConfigurationError`` if the options do not go together.
    """
    runs = daemon is not None
    if policy is MpsPolicy.OFF or not any(0 < demand.gpus < 1 or demand.gpu_memory_gb for demand in demands):
        return MpsUse(serves=runs)
    option = f"mps={policy.value!r}"
    if runs or any(is_shared_by_mps(device) for device in devices):
        who = f"the control daemon of MPS that runs already (pid {daemon.pid})" if daemon is not None else "MPS"
        notes = (f"{option}: {who} is used, and none is started",) if policy is MpsPolicy.START else ()
        return MpsUse(limits=True, serves=runs, notes=notes)
    if policy is MpsPolicy.AUTO:
        return MpsUse(notes=(f"{option}: no control daemon of MPS runs here, so workers share GPUs without it",))
    if any(device.is_mig for device in devices):
        return MpsUse(notes=(f"{option}: not started, since it would need a daemon for each MIG slice",))
    if pinning is not GpuPinning.UUID:
        raise ConfigurationError(
            f"{option} cannot be combined with gpu_pinning={pinning.value!r}: MPS numbers the GPUs that it has anew. "
            "Leave one of them out"
        )
    return MpsUse(limits=True, starts=True, serves=True)
