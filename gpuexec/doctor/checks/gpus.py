"""Checks of single GPUs: their modes, their memory, what the driver advises, clocks, link, and who else uses them."""

from __future__ import annotations

from collections.abc import Iterator

from gpuexec.doctor.checks.each_gpu import REBOOT, RESET_ADVICE, RESET_GPU, OneGpu, gpu_check
from gpuexec.doctor.facts import Facts
from gpuexec.doctor.model import Finding, fail, passed, warn
from gpuexec.hardware.clock_reasons import SLOWDOWNS
from gpuexec.hardware.health import RecoveryAction
from gpuexec.hardware.leases import with_leases
from gpuexec.hardware.model import ComputeMode
from gpuexec.hardware.tenants import Tenant, Use, is_shared_by_mps, uses_of
from gpuexec.hardware.visible_devices import devices_of
from gpuexec.units import GIB, format_bytes

_DEFAULT_MODE = "sudo nvidia-smi -i {gpus} -c DEFAULT"
_PERSIST = "sudo nvidia-smi -i {gpus} -pm 1"
_PROFILES = "nvidia-smi mig -lgip -i {gpus}"
_ECC = "nvidia-smi -q -d ECC -i {gpus}"
_ROWS = "nvidia-smi -q -d ROW_REMAPPER -i {gpus}"
_PAGES = "nvidia-smi -q -d PAGE_RETIREMENT -i {gpus}"
_IMEX = "sudo systemctl restart nvidia-imex"
_CLOCKS = "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i {gpus}"
_LINK = "nvidia-smi --query-gpu=pcie.link.width.current,pcie.link.width.max --format=csv -i {gpus}"
_WHO = "ps -o pid,user,lstart,cmd -p {pids}"
_RUNS = "gpuexec runs"
_HOLDERS = "sudo fuser -v /dev/nvidia*"
_BUSY = "Runs leave such a GPU out; `-o busy_gpus=wait` waits for it"

_MANY_CORRECTED = 50_000_000  # since the driver was loaded; GCM's threshold
_LONG_THROTTLED = 0.01  # of the time that the machine has been up
_WORTH_NAMING = GIB  # of memory that nobody is listed for


@gpu_check(
    "compute-mode",
    source="nvml.h, nvmlComputeMode_t",
    remedies=(_DEFAULT_MODE,),
)
def compute_mode(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """Several workers may share the GPU. Warns in exclusive-process mode without MPS, fails if computing is
    prohibited."""
    mode = one.gpu.compute_mode
    if mode is None:
        yield one.missing("compute_mode")
    elif mode is ComputeMode.PROHIBITED:
        yield fail("no process may compute on it (compute mode PROHIBITED)", _DEFAULT_MODE)
    elif mode is ComputeMode.DEFAULT:
        yield passed("default")
    elif facts.mps.daemons or any(is_shared_by_mps(device) for device in devices_of(one.gpu)):
        yield passed("exclusive process, and MPS shares it")
    else:
        yield warn(
            "exclusive process: one worker at a time, stages that share it do not fit", _DEFAULT_MODE, "Or start MPS"
        )


@gpu_check(
    "persistence-mode",
    source="NVIDIA Driver Persistence, Overview; dcgmi diag, level 1",
    remedies=(_PERSIST,),
)
def persistence_mode(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """The driver keeps the GPU initialised. Warns if not: its next user waits 1 to 3 s, and error counters are lost."""
    del facts
    if one.health.persistence_mode is None:
        yield one.missing("persistence_mode")
    elif one.health.persistence_mode:
        yield passed("on")
    elif any(process.kind == "graphics" for process in one.gpu.processes or ()):
        yield passed("off, but a desktop keeps it initialised")
    else:
        yield warn(
            "off: the first process on it waits 1 to 3 s, and its error counters start anew",
            _PERSIST,
            "It lasts until the next start of the machine; the service nvidia-persistenced lasts",
        )


@gpu_check(
    "mig",
    source="NVIDIA Multi-Instance GPU User Guide; nvml.h, nvmlDeviceGetMigMode",
    remedies=(_PROFILES, RESET_GPU),
)
def mig(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """A GPU in MIG mode has slices, and no change of the mode waits. Warns if one does, fails if there is no slice."""
    del facts
    health = one.health
    if health.mig_enabled is None:
        yield one.missing("mig_enabled")
        return
    yield from _waiting_for_a_reset("MIG", health.mig_enabled, health.mig_pending)
    if not health.mig_enabled:
        yield passed("off")
    elif not one.gpu.mig_slices:
        yield fail(
            "MIG is on and there is no slice: CUDA sees no device",
            _PROFILES,
            "`nvidia-smi mig -cgi PROFILE -C` makes one",
        )
    else:
        profiles = ", ".join(slice_.profile or "?" for slice_ in one.gpu.mig_slices)
        yield passed(f"{len(one.gpu.mig_slices)} slices ({profiles}), each for one worker at a time")


@gpu_check(
    "ecc",
    source="Meta's GCM, ecc_uncorrected_volatile_total (0) and ecc_corrected_volatile_total (50,000,000); "
    "nvml.h, fields 3, 4 and 6",
    remedies=(RESET_GPU, _ECC),
)
def ecc(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """No uncorrected memory errors since the driver was loaded: fails at the first. Warns if a change of the mode waits
    for a reset, and at 50 million corrected errors."""
    del facts
    health = one.health
    if health.ecc_enabled is None:
        yield one.missing("ecc_enabled")
        return
    yield from _waiting_for_a_reset("ECC", health.ecc_enabled, health.ecc_pending)
    if not health.ecc_enabled:
        yield passed("off: memory errors go unnoticed")
    if health.ecc_uncorrected:
        yield fail(f"{health.ecc_uncorrected:,} uncorrected memory error(s)", RESET_GPU, RESET_ADVICE)
    if health.ecc_corrected is not None and health.ecc_corrected > _MANY_CORRECTED:
        yield warn(f"{health.ecc_corrected:,} corrected memory errors: the memory may be failing", _ECC)
    if health.ecc_enabled and health.ecc_uncorrected is None:
        yield one.missing("ecc_uncorrected")
    if health.ecc_enabled and health.ecc_uncorrected == 0:
        ever = f", {health.ecc_uncorrected_ever:,} uncorrected ever" if health.ecc_uncorrected_ever else ""
        yield passed(f"no uncorrected errors{ever}")


@gpu_check(
    "row-remap",
    source="NVIDIA GPU Memory Error Management, Error Recovery and Response Flags; nvml.h, fields 29–31 and 142–145; "
    "Meta's GCM, row_remap and gpu_retired_pages",
    remedies=(_ROWS, _PAGES, RESET_GPU, REBOOT),
)
def row_remap(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """Bad memory could be taken out of use. Fails if that ever failed, warns if it waits for a reset.

    GPUs since Ampere remap rows, older ones retire pages. Nothing that runs is harmed while it waits.
    """
    del facts
    health = one.health
    if health.remap_failed is None and health.retirement_pending is None:
        yield one.missing("remap_failed")
    elif health.remap_failed is None:
        if health.retirement_pending:
            yield warn("pages of memory are to be retired when the driver is loaded next", REBOOT)
        pages = (health.retired_pages_single or 0) + (health.retired_pages_double or 0)
        yield passed(f"{pages} pages retired") if not pages else warn(f"{pages} pages of memory were retired", _PAGES)
    elif health.remap_failed:
        yield fail("a row of memory could not be remapped: have the GPU serviced", _ROWS)
    elif health.remap_pending:
        yield warn(
            "a row of memory is to be remapped at the next reset; what runs is not harmed", RESET_GPU, RESET_ADVICE
        )
    else:
        rows = (health.remapped_correctable or 0) + (health.remapped_uncorrectable or 0)
        yield passed(f"{rows} rows remapped, none waits")


_ACTIONS = {
    RecoveryAction.GPU_RESET: ("a reset", RESET_GPU, RESET_ADVICE),
    RecoveryAction.NODE_REBOOT: ("a reboot: the operating system may be inconsistent", REBOOT, ""),
    RecoveryAction.SYSTEM_REBOOT: ("a reboot", REBOOT, ""),
    RecoveryAction.BUS_RESET: ("a reset of its PCIe bus", REBOOT, "A reboot resets the bus"),
    RecoveryAction.DRAIN_P2P: (
        "an end of the work that reaches it from other GPUs",
        RESET_GPU,
        "End the processes that use several GPUs; if the driver still asks for it then, reset",
    ),
    RecoveryAction.DRAIN_AND_RESET: (
        "an end of the work that reaches it from other GPUs, then a reset",
        RESET_GPU,
        RESET_ADVICE,
    ),
    RecoveryAction.RECOVER_IMEX_DOMAIN: ("a recovery of its IMEX domain", _IMEX, ""),
}


@gpu_check(
    "recovery-action",
    source="NVIDIA GPU Memory Error Management, Error Recovery and Response Flags; nvml.h, field 230",
    remedies=(RESET_GPU, REBOOT, _IMEX),
)
def recovery_action(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """The driver asks for nothing after a fault. Fails if it asks for a reset, a reboot or the like."""
    del facts
    action = one.health.recovery_action
    if action is None:
        yield one.missing("recovery_action")
    elif action == RecoveryAction.NONE:
        yield passed("none")
    elif action in _ACTIONS:
        what, command, advice = _ACTIONS[RecoveryAction(action)]
        yield fail(f"the driver asks for {what}", command, advice)
    else:
        yield fail(f"the driver asks for action {action}, which is newer than this program", REBOOT)


@gpu_check(
    "throttling",
    source="nvml.h, nvmlClocksEventReasons and fields 269–271",
    remedies=(_CLOCKS,),
)
def throttling(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """Heat or the power supply do not slow the GPU down. Warns if they do now, or did for over 1 % of the time that the
    machine has been up. Running at the power limit is what a busy GPU does."""
    health = one.health
    if health.clock_reasons is None:
        yield one.missing("clock_reasons")
        return
    now = [reason for reason in health.clock_reasons if reason in SLOWDOWNS]
    if now:
        yield warn(f"slowed down now: {', '.join(now)}", _CLOCKS, "Look at cooling, fans and power supply")
    seconds = {reason: ns / 1e9 for reason, ns in (health.throttled_ns or {}).items() if reason in SLOWDOWNS and ns}
    for reason, spent in seconds.items():
        share = spent / facts.uptime_s if facts.uptime_s else 0.0
        if share > _LONG_THROTTLED:
            yield warn(f"slowed down for {spent:,.0f} s so far, {share:.0%} of the time: {reason}", _CLOCKS)
    if not now:
        counted = ", ".join(f"{reason} {spent:,.1f} s" for reason, spent in seconds.items()) or "never slowed down"
        yield passed("not now" + (f"; {counted} so far" if health.throttled_ns is not None else ""))


@gpu_check(
    "pcie-link",
    source="nvml.h, nvmlDeviceGetCurrPcieLinkWidth; /sys/bus/pci/devices/…/max_link_width; Meta's GCM, check-pci",
    remedies=(_LINK,),
)
def pcie_link(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """The PCIe link has all of the card's lanes. Warns if it is narrower. Its speed is low while the GPU idles."""
    health = one.health
    domain, _, rest = (one.gpu.pci_bus_id or "").lower().partition(":")
    of_card = facts.driver.card_lanes.get(f"{domain[-4:]}:{rest}")
    most = max((lanes for lanes in (of_card, health.pcie_max_width) if lanes), default=None)
    if health.pcie_width is None:
        yield one.missing("pcie_width")
    elif most is None:
        yield one.missing("pcie_max_width")
    elif health.pcie_width < most:
        yield warn(
            f"{health.pcie_width} of the card's {most} PCIe lanes are in use: copies take {most / health.pcie_width:g}"
            " times as long",
            _LINK,
            "Reseat the card, or put it into a slot that has all lanes",
        )
    else:
        most_speed = f", generation {health.pcie_max_generation} at most" if health.pcie_max_generation else ""
        yield passed(f"{health.pcie_width} lanes{most_speed}")


@gpu_check(
    "tenants",
    source="nvml.h, nvmlDeviceGetComputeRunningProcesses; leases of gpuexec",
    remedies=(_WHO, _RUNS, _HOLDERS),
)
def tenants(one: OneGpu, facts: Facts) -> Iterator[Finding]:
    """Nobody else computes on the GPU. Warns with who does, and with memory that no listed process holds."""
    devices = devices_of(one.gpu)
    if one.gpu.processes is None and not one.gpu.mig_slices:
        yield one.missing("processes")
        return
    found = False
    for device in with_leases(devices, facts.driver.leases) if facts.driver.leases else devices:
        for use in uses_of(device):
            finding = _judge(use, facts)
            if finding is not None:
                found = True
                yield finding
    if not found:
        yield passed("no other processes compute on it")


def _judge(use: Use, facts: Facts) -> Finding | None:
    size = "an unknown amount of memory" if use.used_bytes is None else format_bytes(use.used_bytes)
    if use.tenant is Tenant.COMPUTE:
        who = ", ".join(_named(process.pid, process.name, facts) for process in use.processes)
        return warn(f"{who} holds {size}", _WHO.replace("{pids}", ",".join(str(p.pid) for p in use.processes)), _BUSY)
    if use.tenant is Tenant.RUN:
        return warn(f"another run of yours holds {size}", _RUNS, _BUSY)
    if use.tenant is Tenant.UNLISTED and (use.used_bytes or 0) > _WORTH_NAMING:
        return warn(f"{size} are held by processes that are not listed", _HOLDERS, _BUSY)
    return None


def _named(pid: int, name: str | None, facts: Facts) -> str:
    user = facts.driver.names.get(pid)
    where = "" if facts.container.in_initial_pid_namespace else " of another pid namespace"
    return f"{name or 'a process'} (pid {pid}{where}{f', {user}' if user else ''})"


def _waiting_for_a_reset(mode: str, enabled: bool, pending: bool | None) -> Iterator[Finding]:
    if pending is not None and pending != enabled:
        yield warn(f"{mode} is to be {'on' if pending else 'off'} after a reset", RESET_GPU, RESET_ADVICE)
