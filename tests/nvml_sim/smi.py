"""Prints a simulated node as ``nvidia-smi -q -x`` does, for a stand-in of that program.

It has the elements that are compared and a few others, in the order and with the units of the real document.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.nvml_sim.nodes import MIB

_DOCTYPE = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
_MODES = {"default": "Default", "exclusive_process": "Exclusive_Process", "prohibited": "Prohibited"}


def document(description: dict[str, Any]) -> str:
    """Return the document of a node as `tests.nvml_sim.nodes` describes it."""
    root = ET.Element("nvidia_smi_log")
    number = description["cuda_driver_version"]
    _add(root, "timestamp", "Sat Nov 28 10:00:00 2026")
    _add(root, "driver_version", description["driver_version"])
    _add(root, "cuda_version", f"{number // 1000}.{number % 1000 // 10}")
    _add(root, "attached_gpus", len(description["gpus"]))
    for gpu in description["gpus"]:
        _add_gpu(root, gpu)
    return _DOCTYPE + ET.tostring(root, encoding="unicode")


def install(folder: Path, text: str) -> None:
    """Write a program ``nvidia-smi`` that prints a text, whatever it is asked."""
    folder.mkdir(exist_ok=True)
    (folder / "smi.xml").write_text(text)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexec cat '{folder / 'smi.xml'}'\n")
    program.chmod(0o700)


def _add_gpu(root: ET.Element, gpu: dict[str, Any]) -> None:
    element = ET.SubElement(root, "gpu", id=gpu["pci_bus_id"])
    mig = gpu.get("mig")
    _add(element, "product_name", gpu["name"])
    _add(ET.SubElement(element, "mig_mode"), "current_mig", _enabled(mig))
    devices = ET.SubElement(element, "mig_devices")
    slices = (mig or {}).get("slices", [])
    devices.text = None if slices else "None"
    for index, each in enumerate(slices):
        _add_slice(devices, index, each)
    _add(element, "uuid", gpu["uuid"])
    _add(element, "minor_number", gpu["minor_number"])
    memory = ET.SubElement(element, "fb_memory_usage")
    for name in ("total", "reserved", "used"):
        _add(memory, name, f"{gpu[f'memory_{name}_bytes'] // MIB} MiB")
    _add(element, "compute_mode", _MODES[gpu["compute_mode"]])


def _add_slice(devices: ET.Element, index: int, described: dict[str, Any]) -> None:
    device = ET.SubElement(devices, "mig_device")
    _add(device, "index", index)
    for name in ("gpu_instance_id", "compute_instance_id"):
        _add(device, name, described[name])
    _add(ET.SubElement(device, "fb_memory_usage"), "total", f"{described['memory_total_bytes'] // MIB} MiB")


def _enabled(mig: dict[str, Any] | None) -> str:
    if mig is None:
        return "N/A"
    return "Enabled" if mig["enabled"] else "Disabled"


def _add(parent: ET.Element, name: str, value: object) -> None:
    ET.SubElement(parent, name).text = str(value)
