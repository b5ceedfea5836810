"""What a user is told of each of NVML's error numbers."""

from __future__ import annotations

import pynvml
import pytest

from gpuexec.hardware import nvml_errors
from gpuexec.hardware.inventory import read_node
from tests.nvml_sim import nodes

CLASSES = [getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVMLError_")]
NUMBERS = {cls().value for cls in CLASSES}


def test_every_error_of_pynvml_has_a_text_or_is_never_met():
    assert len(NUMBERS) >= 31
    assert nvml_errors.CAUSES.keys() | nvml_errors.NEVER_MET == NUMBERS
    assert not nvml_errors.CAUSES.keys() & nvml_errors.NEVER_MET


@pytest.mark.parametrize("number", sorted(NUMBERS | {777}))
def test_the_reason_has_the_number_unless_it_is_no_fault(number):
    reason = nvml_errors.reason(pynvml.NVMLError(number))
    assert (f"NVML error {number}, " in reason) == (number not in {3, 13, 15})
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (999, "reset the GPU or reboot"),
        (16, "nvidia-smi --gpu-reset"),
        (11, "BIOS"),
        (8, "check the cables"),
        (9, "modprobe nvidia"),
        (18, "reload the module or reboot"),
        (4, "/dev/nvidia*"),
        (10, "see dmesg"),
        (14, "serviced"),
        (19, "lists the processes"),
        (17, "restart it"),
    ],
)
def test_a_driver_that_refuses_says_what_to_do(nvml_node, number, remedy):
    nvml_node({**nodes.small(), "init_error": number})
    assert remedy in read_node().no_gpus_reason
