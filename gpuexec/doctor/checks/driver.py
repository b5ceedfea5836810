"""Checks of the driver: is it there, does it answer, does it list every GPU, and can CUDA programs use them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuexec.doctor.checks.each_gpu import ASK_DRIVER, REBOOT, RESET_GPU, gpus_of, why_unreadable, without_gpus
from gpuexec.doctor.facts import Facts, TorchFacts
from gpuexec.doctor.model import Finding, Topic, check, fail, passed, unknown, warn
from gpuexec.hardware.nvml_errors import with_remedy
from gpuexec.hardware.visible_devices import VARIABLE, VisibleDevices, select

_INSTALL = "sudo ubuntu-drivers install"
_GIVE_GPUS = "docker run --gpus all …"
_MODPROBE = "sudo modprobe nvidia"
_INSTALL_NVML = "python -m pip install nvidia-ml-py"
_RESTART_DOCKER = "docker restart CONTAINER"
_RESTART_POD = "kubectl delete pod POD"
_DEVICE_FILES = "ls -l /dev/nvidia*"
_SMI = "nvidia-smi"
_LOG = "sudo dmesg | grep -i -e nvrm -e nvidia"
_UNSET = f"unset {VARIABLE}"
_LIST = "gpuexec gpus"
_INSTALL_TORCH = "python -m pip install --force-reinstall torch"
_IMPORT_TORCH = "python -c 'import torch; torch.cuda.init()'"

_NO_PERMISSION, _DRIVER_NOT_LOADED, _REFUSED, _MISMATCH, _UNKNOWN = 4, 9, 17, 18, 999  # nvmlReturn_t


@check(
    "driver",
    Topic.DRIVER,
    source="nvml.h, nvmlReturn_t; for 999 in containers NVIDIA/nvidia-container-toolkit#48",
    remedies=(
        *(_INSTALL, _GIVE_GPUS, _MODPROBE, _INSTALL_NVML, _RESTART_DOCKER, _RESTART_POD),
        *(_DEVICE_FILES, _SMI, REBOOT),
    ),
)
def driver(facts: Facts) -> Iterator[Finding]:
    """Driver and library are there, of one version, and answer. Fails if a GPU is there that they cannot be used
    for."""
    found = facts.driver
    node, health = found.node, found.health
    hang = health.hang or node.hang
    if hang is not None:
        yield fail(with_remedy(hang), REBOOT)
    elif health.gpus:
        module = found.kernel_module
        if module is not None and node.driver_version not in (None, module):
            yield _mismatch(f"the library is of version {node.driver_version}, the loaded kernel module of {module}")
        else:
            yield passed(f"driver {node.driver_version or '?'}, CUDA {node.cuda_version or '?'}")
    elif facts.packages.versions and "nvidia-ml-py" not in facts.packages.versions:
        yield unknown("the package nvidia-ml-py is not installed, which asks the driver", _INSTALL_NVML)
    else:
        yield _why_no_gpu(facts)


def _why_no_gpu(facts: Facts) -> Finding:
    found = facts.driver
    reason, container = found.health.reason or "the driver is loaded, but reports no GPU", facts.container.kind
    if found.health.error is not None and found.health.error != _DRIVER_NOT_LOADED:
        return _after_error(found.health.error, reason, container, found.kernel_module)
    if not found.pci_gpus and not found.has_dxg:
        listed = "no NVIDIA GPU on the PCI bus" if found.pci_gpus is not None else "no driver"
        return passed(f"{listed}: stages that ask for no GPU run")
    where = f"NVIDIA GPU on the PCI bus ({', '.join(found.pci_gpus)})" if found.pci_gpus else "GPU of WSL"
    if found.health.error == _DRIVER_NOT_LOADED:
        return fail(f"{where}, but the driver's kernel module is not loaded", _MODPROBE, "Or reboot")
    if container is not None:
        return fail(f"{where}, but this container was not given it: {reason}", _GIVE_GPUS)
    return fail(f"{where}, but {reason}", _INSTALL, "Elsewhere than on Ubuntu: the distribution's NVIDIA driver")


def _after_error(number: int, reason: str, container: str | None, module: str | None) -> Finding:
    if number == _MISMATCH:
        loaded = f" (the kernel module that is loaded is {module})" if module else ""
        return _mismatch(f"driver and library are of different versions{loaded}")
    if number in (_UNKNOWN, _REFUSED) and container is not None:
        restart = _RESTART_POD if container == "Kubernetes" else _RESTART_DOCKER
        return fail(
            f"NVML error {number}: this container has lost its GPUs, as after `systemctl daemon-reload` on the host",
            restart,
            "So that it stays: `sudo nvidia-ctk system create-dev-char-symlinks --create-all` on the host",
        )
    if number == _NO_PERMISSION:
        return fail(reason, _DEVICE_FILES)
    if number == _UNKNOWN:
        return fail(reason, REBOOT)
    return fail(reason, _SMI)


def _mismatch(found: str) -> Finding:
    return fail(f"{found}: the driver was updated, and the old kernel module is still loaded", REBOOT)


@check(
    "gpus",
    Topic.DRIVER,
    source="Meta's GCM, check-nvidia-smi gpu_num; /sys/bus/pci",
    remedies=(RESET_GPU, _LOG, ASK_DRIVER),
)
def gpus(facts: Facts) -> Iterator[Finding]:
    """Every GPU answers, and outside containers the driver lists each that is on the PCI bus. Fails if one does not."""
    found = facts.driver
    if not found.health.gpus:
        yield without_gpus(facts) or passed("no GPU here")
        return
    usable = {one.health.index for one in gpus_of(found)}
    for gpu in found.node.gpus:
        if gpu.lost:
            yield _about(
                fail("lost: it has fallen off the bus", RESET_GPU, "If it does not come back, reboot"), gpu.index
            )
        elif gpu.index not in usable:
            yield _about(fail(gpu.unknown.get("handle", "it cannot be opened"), _LOG), gpu.index)
    listed = {_bus(gpu.pci_bus_id) for gpu in found.node.gpus if gpu.pci_bus_id is not None}
    unlisted = [bus for bus in found.pci_gpus or () if _bus(bus) not in listed]
    if unlisted and facts.container.kind is None and len(unlisted) > len(found.node.gpus) - len(listed):
        yield fail(f"on the PCI bus, but not listed by the driver: {', '.join(unlisted)}", _LOG)
    names = dict.fromkeys(gpu.name or "?" for gpu in found.node.gpus if gpu.index in usable)
    yield passed(f"{len(usable)} of {len(found.node.gpus)} answer: {', '.join(names)}" if usable else "none answers")


def _about(finding: Finding, gpu: int) -> Finding:
    return Finding(finding.outcome, finding.found, finding.remedy, finding.advice, (gpu,))


def _bus(bus_id: str) -> str:
    """Return a bus id as the kernel writes it: NVML gives the domain eight digits."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


@check(
    "visible-devices",
    Topic.DRIVER,
    source="CUDA C++ Programming Guide, CUDA Environment Variables",
    remedies=(_UNSET, _LIST, ASK_DRIVER),
)
def visible(facts: Facts) -> Iterator[Finding]:
    """CUDA_VISIBLE_DEVICES names GPUs that are there. Warns if CUDA reads it in another way than it looks."""
    nothing = without_gpus(facts)
    if nothing is not None:
        yield nothing
        return
    chosen = select(facts.driver.node.gpus, facts.variables)
    value = facts.variables.get(VARIABLE)
    notes = _notes(chosen)
    for note in notes:
        yield warn(note, _LIST)
    if value is not None and not chosen.devices and not notes:
        yield warn(f"{VARIABLE}={value!r} hides every GPU", _UNSET)
    if not notes and (chosen.devices or value is None):
        yield passed("not set: all are visible" if value is None else f"{len(chosen.devices)} chosen")


def _notes(chosen: VisibleDevices) -> list[str]:
    """Return what is to be said about the variable. What is wrong with the GPUs themselves, another check says."""
    return [note for note in chosen.notes if not note.startswith("GPU ")]


@check(
    "torch-cuda",
    Topic.DRIVER,
    source="CUDA Compatibility, Minor Version Compatibility; CUDA C++ Programming Guide, Binary and PTX Compatibility",
    remedies=(_INSTALL_TORCH, _IMPORT_TORCH, _INSTALL, _LIST, ASK_DRIVER),
)
def torch_cuda(facts: Facts) -> Iterator[Finding]:
    """PyTorch, where it is installed, sees the visible GPUs and has kernels for their architecture. Fails if not.

    It is asked in a process of its own. Warns if PyTorch was built without CUDA.
    """
    torch = facts.torch
    if torch.reason:
        yield unknown(torch.reason, _IMPORT_TORCH)
    elif torch.version is None and torch.problem:
        yield fail(torch.problem, _IMPORT_TORCH)
    elif torch.version is None:
        yield passed("torch is not installed")
    elif not gpus_of(facts.driver):
        yield (
            passed(f"torch {torch.version}; no GPU for it")
            if not why_unreadable(facts.driver)
            else unknown("no GPU can be read", ASK_DRIVER)
        )
    elif torch.cuda is None:
        yield warn(f"torch {torch.version} was built without CUDA: it computes on CPUs only", _INSTALL_TORCH)
    else:
        yield from _with_cuda(torch, facts)


def _with_cuda(torch: TorchFacts, facts: Facts) -> Iterator[Finding]:
    build = f"torch {torch.version} for CUDA {torch.cuda}"
    offered = facts.driver.node.cuda_version
    expected = len(select(facts.driver.node.gpus, facts.variables).devices)
    if not torch.is_available and not expected:
        yield passed(f"{build}; no GPU is visible to it")
    elif not torch.is_available and offered and torch.cuda and _major(torch.cuda) > _major(offered):
        yield fail(
            f"{build} needs a newer driver: this one offers CUDA {offered}", _INSTALL, "Or an older build of torch"
        )
    elif not torch.is_available:
        yield fail(f"{build} sees no GPU{f': {torch.problem}' if torch.problem else ''}", _IMPORT_TORCH)
    else:
        unfit = [device for device in torch.devices if not runs_on(device.capability, torch.architectures)]
        for device in unfit:
            has = ", ".join(torch.architectures)
            sm = "sm_" + "".join(map(str, device.capability))
            yield fail(f"{build} has no kernels for {device.name} ({sm}): it has {has}", _INSTALL_TORCH)
        if len(torch.devices) != expected:
            yield warn(f"{build} sees {len(torch.devices)} GPU(s), {expected} should be visible", _LIST, torch.problem)
        elif not unfit:
            yield passed(f"{build}: {len(torch.devices)} GPU(s)")


def runs_on(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Return whether a build has code for a GPU. It is assumed to if it does not say what it has.

    Compiled code (sm_86) runs on the same major version from its minor version on, and only on the very same one if it
    is specific (sm_90a); from 10.0 on there is code for a family (sm_100f), of the same major version. PTX (compute_80)
    is compiled for later GPUs when it is loaded.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        kind, built, specific = match[1], (int(match[2]), int(match[3])), match[4]
        same_major = built[0] == capability[0] and built[1] <= capability[1]
        if (
            built == capability
            or (same_major and specific != "a")
            or (kind == "compute" and not specific and built <= capability)
        ):
            return True
    return not architectures


def _major(version: str) -> int:
    return int(version.partition(".")[0])
