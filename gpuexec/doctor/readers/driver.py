"""The NVIDIA driver: what NVML says, and what PCI bus and kernel say without it. Also MPS."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpuexec.doctor.facts import DriverFacts, MpsDaemon, MpsFacts
from gpuexec.doctor.readers.files import fields_of, number_of, text_of, whole
from gpuexec.hardware import health, inventory, visible_devices
from gpuexec.hardware.host import in_initial_pid_namespace, name_of_user
from gpuexec.hardware.lease_folder import VARIABLE as LEASE_FOLDER
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import read_leases
from gpuexec.hardware.model import Gpu, GpuProcess, Lease, Node
from gpuexec.hardware.mps import DEFAULT_PIPES, MPS_PIPES, PROCESS_NAME
from gpuexec.private_folder import state_path

_ROOT = Path("/")
_PCI = "sys/bus/pci/devices"
_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class of display controllers: 0300 VGA, 0302 3D
_MODULE = re.compile(r"Kernel Module\b.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def read_driver(root: Path = _ROOT) -> DriverFacts:
    """Read the GPUs through NVML, and what is known of them without it."""
    node = inventory.read_node()
    cards = dict(_nvidia_cards(root))
    listed = (root / _PCI).is_dir()
    return DriverFacts(
        node=node,
        health=health.read_health(),
        kernel_module=_kernel_module(root),
        pci_gpus=tuple(sorted(cards)) if listed else None,
        card_lanes={bus: lanes for bus, lanes in cards.items() if lanes},
        has_dxg=(root / "dev/dxg").exists(),
        leases=_leases(node),
        names=dict(_owners(node, root)) if in_initial_pid_namespace(root) else {},
    )


def read_mps(root: Path = _ROOT, environ: Mapping[str, str] = os.environ) -> MpsFacts:
    """Look for MPS's pipe and its processes."""
    folder = Path(environ.get(MPS_PIPES) or DEFAULT_PIPES)
    return MpsFacts(
        pipe_folder=str(folder),
        has_pipe=(root / folder.relative_to("/") / "control").exists() if folder.is_absolute() else False,
        daemons=tuple(_mps_daemons(root)),
        sees_all_processes=in_initial_pid_namespace(root),
    )


def _kernel_module(root: Path) -> str | None:
    """Return the version of the loaded kernel module; /proc/driver/nvidia/version names it in its first line."""
    match = _MODULE.search((text_of(root / "proc/driver/nvidia/version") or "") + " ")
    return match[1] if match else None


def _nvidia_cards(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the bus id of each NVIDIA display controller, and how many PCIe lanes it has (0: not known)."""
    with contextlib.suppress(OSError):
        for folder in (root / _PCI).iterdir():
            is_display = (text_of(folder / "class") or "").startswith(_DISPLAY)
            if is_display and text_of(folder / "vendor") == _NVIDIA:
                yield folder.name, number_of(folder / "max_link_width") or 0


def _leases(node: Node) -> dict[str, tuple[Lease, ...]]:
    """Return what other runs hold. The folder is not made if there is none."""
    uuids = [device.uuid for gpu in node.gpus for device in visible_devices.devices_of(gpu)]
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get(LEASE_FOLDER) or state_path("leases"))
        if uuids and folder.is_dir():
            return read_leases(LeaseFolder(folder), uuids)
    return {}


def _owners(node: Node, root: Path) -> Iterator[tuple[int, str]]:
    """Yield the user of each process that holds memory on a GPU."""
    for pid in {process.pid for gpu in node.gpus for process in _processes(gpu)}:
        uid = _uid(root / f"proc/{pid}")
        if uid is not None:
            yield pid, user_name(uid)


def _processes(gpu: Gpu) -> Iterator[GpuProcess]:
    yield from gpu.processes or ()
    for slice_ in gpu.mig_slices:
        yield from slice_.processes or ()


def _mps_daemons(root: Path) -> Iterator[MpsDaemon]:
    with contextlib.suppress(OSError):
        for folder in sorted((root / "proc").glob("[0-9]*")):
            if (text_of(folder / "comm") or "").startswith(PROCESS_NAME):
                command = (text_of(folder / "cmdline") or PROCESS_NAME).partition("\0")[0]
                yield MpsDaemon(int(folder.name), Path(command).name, _uid(folder))


def _uid(folder: Path) -> int | None:
    """Return whose process it is, from its folder in /proc."""
    return whole(fields_of(folder / "status").get("Uid", "").partition("\t")[0])


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has none here."""
    return name_of_user(uid) or f"uid {uid}"
