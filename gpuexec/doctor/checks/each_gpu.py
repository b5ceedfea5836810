"""What all checks of single GPUs have in common: which GPUs there are, and what to say where there is none."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from gpuexec.doctor.facts import DriverFacts, Facts
from gpuexec.doctor.model import Check, Finding, Topic, check, passed, unknown
from gpuexec.hardware.health import GpuHealth
from gpuexec.hardware.model import Gpu
from gpuexec.hardware.nvml_errors import NOT_SUPPORTED
from gpuexec.records import Record

ASK_DRIVER = "gpuexec doctor --check driver --check gpus"
ASK_GPU = "nvidia-smi -q -i {gpus}"
RESET_GPU = "sudo nvidia-smi --gpu-reset -i {gpus}"
REBOOT = "sudo reboot"
RESET_ADVICE = "End what uses the GPU first; where it cannot be reset, as with a display attached, reboot"
_DRIVER_NOT_LOADED = 9  # nvmlReturn_t


class OneGpu(Record):
    """A GPU as the inventory has it, and how it is."""

    gpu: Gpu
    health: GpuHealth

    def missing(self, name: str) -> Finding:
        """Return the finding for a reading that is ``None``: a GPU without the feature passes."""
        reason = self.health.unknown.get(name) or self.gpu.unknown.get(name) or "it was not read"
        return passed("not offered by this GPU") if reason == NOT_SUPPORTED else unknown(reason, ASK_GPU)


def gpus_of(driver: DriverFacts) -> list[OneGpu]:
    """Return the GPUs that can be opened."""
    by_index = {gpu.index: gpu for gpu in driver.node.gpus}
    return [
        OneGpu(by_index[one.index], one)
        for one in driver.health.gpus
        if one.index in by_index and "handle" not in one.unknown and not by_index[one.index].lost
    ]


def why_unreadable(driver: DriverFacts) -> str | None:
    """Return why GPUs that there may be cannot be read; ``None`` if there simply is none, or they can."""
    health = driver.health
    if health.hang is not None or driver.node.hang is not None:
        return health.hang or driver.node.hang
    if health.reason is None or health.gpus:
        return None
    has_cards = bool(driver.pci_gpus) or driver.has_dxg
    fails_inside = health.error is not None and (health.error != _DRIVER_NOT_LOADED or driver.pci_gpus is None)
    return health.reason if has_cards or fails_inside else None


def without_gpus(facts: Facts) -> Finding | None:
    """Return what a check of GPUs says where none can be looked at; ``None`` if there are some."""
    if gpus_of(facts.driver):
        return None
    if facts.driver.health.gpus or why_unreadable(facts.driver) is not None:
        return unknown("no GPU can be read", ASK_DRIVER)
    return passed("no GPU here")


LookAtGpu = Callable[[OneGpu, Facts], Iterable[Finding]]


def gpu_check(name: str, *, source: str, remedies: Sequence[str]) -> Callable[[LookAtGpu], Check]:
    """Make a check of a function that looks at one GPU."""

    def made(look: LookAtGpu) -> Check:
        @functools.wraps(look)
        def look_at_all(facts: Facts) -> Iterator[Finding]:
            nothing = without_gpus(facts)
            if nothing is not None:
                yield nothing
            for one in gpus_of(facts.driver):
                for finding in look(one, facts):
                    yield dataclasses.replace(finding, gpus=(one.health.index,))

        return check(name, Topic.GPU, source=source, remedies=(*remedies, ASK_GPU, ASK_DRIVER))(look_at_all)

    return made
