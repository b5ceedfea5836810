"""Reads ``nvidia-smi -q -x``, and compares it with what gpuexec reads. Pure.

Source of the element names: the documents of drivers 535 to 580, whose DTD is ``nvsmi_device_v12.dtd``. MIG devices
have an element ``uuid`` in some drivers only.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Any

from gpuexec.hardware.model import Gpu, MigSlice, Node
from gpuexec.records import Record
from gpuexec.units import MIB

_ABSENT = {
    "",
    "N/A",
    "Not Supported",
    "None",
    "Unknown Error",
    "Insufficient Permissions",
    "GPU is lost",
    "GPU requires reset",
}
_UNITS = {"B": 1, "KiB": 1024, "MiB": MIB, "GiB": 1024 * MIB}
_MODES = {"Default": "default", "Exclusive_Process": "exclusive_process", "Prohibited": "prohibited"}
_ROUNDING_BYTES = MIB  # nvidia-smi prints whole MiB


class NotReadable(ValueError):
    """The text is no document of nvidia-smi. The message says what was found."""


class SmiSlice(Record):
    """A MIG device. ``None``: nvidia-smi does not say."""

    index: int | None
    gpu_instance_id: int | None
    compute_instance_id: int | None
    memory_total_bytes: int | None
    uuid: str | None


class SmiGpu(Record):
    """A GPU, as nvidia-smi describes it. ``None``: it does not say."""

    pci_bus_id: str
    uuid: str | None
    name: str | None
    memory_total_bytes: int | None
    memory_reserved_bytes: int | None
    compute_mode: str | None
    mig_enabled: bool | None
    slices: tuple[SmiSlice, ...] = ()


class SmiLog(Record):
    """The whole document; its GPUs are in PCI order."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[SmiGpu, ...]


def parse(text: str) -> SmiLog:
    """Read a document. Raises `NotReadable`."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise NotReadable(f"what nvidia-smi -q -x printed is not XML ({error}); it begins with {text[:80]!r}") from None
    if root.tag != "nvidia_smi_log":
        raise NotReadable(f"the document of nvidia-smi -q -x is <{root.tag}>, not <nvidia_smi_log>")
    gpus = tuple(_gpu(element) for element in root.findall("gpu"))
    return SmiLog(_text(root, "driver_version"), _text(root, "cuda_version"), gpus)


def differences(log: SmiLog, node: Node) -> list[str]:
    """Return where the two disagree, as sentences. What either of them cannot read is not compared."""
    found = [
        *_unequal("the driver's version", node.driver_version, log.driver_version),
        *_unequal("CUDA's version", node.cuda_version, log.cuda_version),
    ]
    if len(log.gpus) != len(node.gpus):
        return [*found, f"gpuexec lists {len(node.gpus)} GPU(s), nvidia-smi {len(log.gpus)}"]
    for ours, theirs in zip(node.gpus, log.gpus, strict=True):
        found += _gpu_differences(ours, theirs)
    return found


def unread(log: SmiLog, node: Node) -> list[str]:
    """Return which readings nvidia-smi has and gpuexec has not, with the reason."""
    pairs = list(zip(node.gpus, log.gpus, strict=False))
    return [
        f"GPU {ours.index}: {name} ({ours.unknown.get(name, 'no reason given')})"
        for ours, theirs in pairs
        for name in ("uuid", "name", "memory_total_bytes", "compute_mode", "mig_enabled")
        if getattr(ours, name) is None and getattr(theirs, name) is not None
    ]


def _gpu_differences(ours: Gpu, theirs: SmiGpu) -> Iterator[str]:
    where = f"GPU {ours.index}: "
    if ours.pci_bus_id is not None and _address(ours.pci_bus_id) != _address(theirs.pci_bus_id):
        yield f"{where}gpuexec has PCI address {ours.pci_bus_id}, nvidia-smi {theirs.pci_bus_id}"
    for name in ("uuid", "name", "mig_enabled"):
        yield from _unequal(where + name, getattr(ours, name), getattr(theirs, name))
    yield from _unequal(where + "compute mode", _plain(ours.compute_mode), theirs.compute_mode)
    for name in ("memory_total_bytes", "memory_reserved_bytes"):
        yield from _unequal_bytes(where + name, getattr(ours, name), getattr(theirs, name))
    if len(ours.mig_slices) != len(theirs.slices):
        yield f"{where}gpuexec lists {len(ours.mig_slices)} MIG slice(s), nvidia-smi {len(theirs.slices)}"
        return
    for ours_slice, theirs_slice in zip(ours.mig_slices, theirs.slices, strict=True):
        yield from _slice_differences(f"{where}MIG slice {ours_slice.index}: ", ours_slice, theirs_slice)


def _slice_differences(where: str, ours: MigSlice, theirs: SmiSlice) -> Iterator[str]:
    for name in ("index", "gpu_instance_id", "compute_instance_id", "uuid"):
        yield from _unequal(where + name, getattr(ours, name), getattr(theirs, name))
    yield from _unequal_bytes(where + "memory_total_bytes", ours.memory_total_bytes, theirs.memory_total_bytes)


def _unequal(what: str, ours: Any, theirs: Any) -> list[str]:
    if ours is None or theirs is None or ours == theirs:
        return []
    return [f"{what} is {ours} for gpuexec, {theirs} for nvidia-smi"]


def _unequal_bytes(what: str, ours: int | None, theirs: int | None) -> list[str]:
    if ours is None or theirs is None or abs(ours - theirs) <= _ROUNDING_BYTES:
        return []
    return [f"{what} is {ours:,} for gpuexec, {theirs:,} for nvidia-smi"]


def _plain(mode: Any) -> str | None:
    return None if mode is None else str(mode.value)


def _address(bus_id: str) -> tuple[int, ...]:
    """Return domain, bus, device and function; NVML and nvidia-smi pad the domain differently."""
    domain, bus, rest = bus_id.split(":") if bus_id.count(":") == 2 else ("0", *bus_id.split(":"))
    device, _, function = rest.partition(".")
    return tuple(int(part or "0", 16) for part in (domain, bus, device, function))


def _gpu(element: ET.Element) -> SmiGpu:
    mode = _text(element, "compute_mode")
    mig = _text(element, "mig_mode/current_mig")
    return SmiGpu(
        pci_bus_id=element.get("id", ""),
        uuid=_text(element, "uuid"),
        name=_text(element, "product_name"),
        memory_total_bytes=_bytes(element, "fb_memory_usage/total"),
        memory_reserved_bytes=_bytes(element, "fb_memory_usage/reserved"),
        compute_mode=None if mode is None else _MODES.get(mode, mode),
        mig_enabled=None if mig is None else mig == "Enabled",
        slices=tuple(_slice(each) for each in element.findall("mig_devices/mig_device")),
    )


def _slice(element: ET.Element) -> SmiSlice:
    return SmiSlice(
        index=_number(element, "index"),
        gpu_instance_id=_number(element, "gpu_instance_id"),
        compute_instance_id=_number(element, "compute_instance_id"),
        memory_total_bytes=_bytes(element, "fb_memory_usage/total"),
        uuid=_text(element, "uuid"),
    )


def _text(element: ET.Element, path: str) -> str | None:
    text = (element.findtext(path) or "").strip()
    return None if text.strip("[]") in _ABSENT else text


def _number(element: ET.Element, path: str) -> int | None:
    text = _text(element, path)
    return int(text) if text is not None and text.isdigit() else None


def _bytes(element: ET.Element, path: str) -> int | None:
    amount, _, unit = (_text(element, path) or "").partition(" ")
    return int(amount) * _UNITS[unit] if amount.isdigit() and unit in _UNITS else None


def as_facts(log: SmiLog) -> Mapping[str, Any]:
    """Return what belongs into a report."""
    return {"driver_version": log.driver_version, "cuda_version": log.cuda_version, "gpus": len(log.gpus)}
