"""XIDs in the kernel log: from the device, and from the files of a log daemon."""

from __future__ import annotations

import os

from gpuexec.doctor.facts import KernelLog, XidEntry
from gpuexec.doctor.readers.kernel_log import read_kernel_log
from tests.unit.doctor.readers.roots import files

RECORDS = """6,1,100,-;Linux version 6.8.0
4,900,5000000,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.
 SUBSYSTEM=pci
4,901,65000000,-;NVRM: Xid (PCI:0000:86:00 GPU-I:02): 94, Contained: SM (0x1)
6,902,66000000,-;NVRM: loading NVIDIA UNIX x86_64 Kernel Module
"""
LINES = """Jan  1 00:00:01 box kernel: [    0.000000] Linux version 6.7.0
Jan  1 00:00:05 box kernel: [    5.000000] NVRM: Xid (PCI:0000:3b:00): 48, before the last start
Jan  2 00:00:01 box kernel: [    0.000000] Linux version 6.8.0
Jan  2 00:00:09 box kernel: [    9.100000] NVRM: Xid (PCI:0000:3b:00): 31, pid=7, Ch 00000008, MMU Fault
"""


def test_records_of_the_kernel(tmp_path):
    found = read_kernel_log(files(tmp_path, {"dev/kmsg": RECORDS}), uptime_s=125.0)
    assert found.source == "/dev/kmsg"
    assert found.xids == (
        XidEntry(79, "0000:3b:00", 120.0, "pid=1234, name=python, GPU has fallen off the bus."),
        XidEntry(94, "0000:86:00", 60.0, "Contained: SM (0x1)"),
    )


def test_lines_of_a_log_daemon_since_the_last_start(tmp_path):
    found = read_kernel_log(files(tmp_path, {"var/log/kern.log": LINES}), uptime_s=125.0)
    assert found == KernelLog((XidEntry(31, "0000:3b:00", None, "pid=7, Ch 00000008, MMU Fault"),), "/var/log/kern.log")


def test_the_next_log_is_read_if_one_cannot_be(tmp_path):
    (tmp_path / "dev/kmsg").mkdir(parents=True)
    found = read_kernel_log(files(tmp_path, {"var/log/syslog": LINES}))
    assert (found.source, len(found.xids)) == ("/var/log/syslog", 1)


def test_no_log_that_can_be_read(tmp_path):
    assert read_kernel_log(tmp_path) == KernelLog(reason="there is no kernel log here")
    (tmp_path / "dev/kmsg").mkdir(parents=True)
    assert read_kernel_log(tmp_path).reason == "/dev/kmsg: Is a directory"


def test_this_machine():
    found = read_kernel_log()
    assert bool(found.source) != bool(found.reason)
    if os.access("/dev/kmsg", os.R_OK) and not found.reason:
        assert found.source == "/dev/kmsg"
