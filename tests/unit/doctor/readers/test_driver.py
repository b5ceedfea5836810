"""The driver over the simulated library, and what kernel and PCI bus say over folders that look like a machine's."""

from __future__ import annotations

import os

import pynvml
import pytest

from gpuexec.doctor.catalogue import CHECKS
from gpuexec.doctor.facts import MpsDaemon
from gpuexec.doctor.model import Outcome, examine
from gpuexec.doctor.readers.driver import read_driver, read_mps, user_name
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import HeldLeases
from gpuexec.hardware.model import LeaseAmount
from tests.nvml_sim import nodes
from tests.unit.doctor.readers.roots import files
from tests.unit.doctor.sample_facts import facts

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12.3.0"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (u@b)  Tue Sep 23\n"
INITIAL = {"proc/self/ns/pid": "-> pid:[4026531836]"}


def card(bus: str, vendor: str = "0x10de", kind: str = "0x030200", lanes: str = "16") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{bus}"
    return {f"{folder}/vendor": vendor, f"{folder}/class": kind, f"{folder}/max_link_width": lanes}


@pytest.mark.parametrize(("text", "version"), [(PROPRIETARY, "535.129.03"), (OPEN, "580.95.05"), ("?", None)])
def test_the_kernel_module(nvml_node, tmp_path, text, version):
    nvml_node(nodes.no_gpu())
    assert read_driver(files(tmp_path, {"proc/driver/nvidia/version": text})).kernel_module == version


def test_cards_on_the_pci_bus(nvml_node, tmp_path):
    nvml_node(nodes.no_gpu())
    root = files(
        tmp_path,
        {
            **card("0000:10:00.0"),
            **card("0000:20:00.0", lanes="junk"),
            **card("0000:20:00.1", kind="0x040300"),  # its audio function
            **card("0000:30:00.0", vendor="0x1002"),
        },
    )
    found = read_driver(root)
    assert found.pci_gpus == ("0000:10:00.0", "0000:20:00.0")
    assert found.card_lanes == {"0000:10:00.0": 16}
    assert not found.has_dxg


def test_without_a_pci_bus_nothing_is_known_of_cards(nvml_node, tmp_path):
    nvml_node({**nodes.no_gpu(), "init_error": pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
    found = read_driver(files(tmp_path, {"dev/dxg": ""}))
    assert (found.pci_gpus, found.has_dxg, found.health.error) == (None, True, 9)


def test_who_holds_a_gpu(nvml_node, tmp_path):
    nvml_node(nodes.node(nodes.well(0, processes=[{"pid": 42, "used_bytes": 1}, {"pid": 43, "used_bytes": 1}])))
    status = {"proc/42/status": "Name: x\nUid:\t0\t0\t0\t0\n"}
    assert read_driver(files(tmp_path / "host", {**INITIAL, **status})).names == {42: "root"}
    assert read_driver(files(tmp_path / "container", status)).names == {}, "42 is another process there"


def test_users_without_a_name():
    assert user_name(os.getuid()) != ""
    assert user_name(3_999_999_999) == "uid 3999999999"


def test_leases_are_read_where_there_are_some(nvml_node, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    nvml_node(nodes.node(nodes.well(0)))
    assert read_driver(tmp_path).leases == {}
    assert list(tmp_path.iterdir()) == [tmp_path / "node.json"], "no folder is made"
    with HeldLeases.take(LeaseFolder.open(), {nodes.uuid(0): LeaseAmount(500)}):
        (lease,) = read_driver(tmp_path).leases[nodes.uuid(0)]
    assert (lease.holder.pid, lease.thousandths) == (os.getpid(), 500)


@pytest.mark.parametrize(
    ("command", "name"),
    [("/usr/bin/nvidia-cuda-mps-server\0", "nvidia-cuda-mps-server"), ("", "nvidia-cuda-mps")],
)
def test_mps(tmp_path, command, name):
    root = files(
        tmp_path,
        {
            **INITIAL,
            "proc/8/comm": "nvidia-cuda-mps\n",
            "proc/8/cmdline": command,
            "proc/8/status": "Uid:\t1000\t1000\n",
            "proc/9/comm": "python\n",
            "tmp/nvidia-mps/control": "",
        },
    )
    found = read_mps(root, {})
    assert (found.pipe_folder, found.has_pipe, found.sees_all_processes) == ("/tmp/nvidia-mps", True, True)
    assert found.daemons == (MpsDaemon(8, name, 1000),)
    assert not read_mps(root, {"CUDA_MPS_PIPE_DIRECTORY": "/elsewhere"}).has_pipe
    assert not read_mps(root, {"CUDA_MPS_PIPE_DIRECTORY": "relative"}).has_pipe


def outcomes(root) -> dict[str, Outcome]:
    found = facts(driver=read_driver(root), target=None)
    return {result.check.name: result.outcome for result in examine(found, CHECKS).results}


def test_checks_of_a_whole_node(nvml_node, tmp_path):
    """From the library to the verdict: what is planted is found, and nothing else."""
    bad = nodes.well(
        1,
        persistence_mode=False,
        compute_mode="exclusive_process",
        ecc={"current": True, "pending": True},
        fields={"4": 1, "144": 1, "230": 1},
        pcie_link={"width": 8, "max_width": 16},
        clocks_event_reasons=0x80,
    )
    nvml_node(nodes.node(nodes.well(0), bad))
    buses = {**card("0000:10:00.0"), **card("0000:20:00.0")}
    found = outcomes(files(tmp_path, {**buses, "proc/driver/nvidia/version": OPEN}))
    assert {name: outcome for name, outcome in found.items() if outcome is not Outcome.PASS} == {
        "compute-mode": Outcome.WARN,
        "persistence-mode": Outcome.WARN,
        "ecc": Outcome.FAIL,
        "row-remap": Outcome.WARN,
        "recovery-action": Outcome.FAIL,
        "throttling": Outcome.WARN,
        "pcie-link": Outcome.WARN,
    }


@pytest.mark.parametrize("make", nodes.ALL.values(), ids=lambda make: make.__name__)
def test_every_simulated_node_can_be_judged(nvml_node, tmp_path, make):
    nvml_node(make())
    found = outcomes(tmp_path)
    if make is nodes.lost:
        assert found["gpus"] is Outcome.FAIL
    elif make is nodes.held:
        assert found["tenants"] is Outcome.WARN
    else:
        assert Outcome.FAIL not in found.values()
