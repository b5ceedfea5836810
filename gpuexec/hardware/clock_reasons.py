"""Why a GPU's clocks are lower than they could be, by the words of this package."""

from __future__ import annotations

# nvmlClocksEventReasons. A power cap is no slowdown: a GPU under full load runs at its power limit.
_CLOCK_REASONS = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "HW slowdown",
    0x10: "sync boost",
    0x20: "SW thermal slowdown",
    0x40: "HW thermal slowdown",
    0x80: "HW power brake slowdown",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}
# NVML_FI_DEV_CLOCKS_EVENT_REASON_*: nanoseconds since the driver was loaded
THROTTLE_COUNTERS = {
    74: "power cap",
    269: "SW thermal slowdown",
    270: "HW thermal slowdown",
    271: "HW power brake slowdown",
}
SLOWDOWNS = ("HW slowdown", "SW thermal slowdown", "HW thermal slowdown", "HW power brake slowdown", "reliability")


def clock_reasons(mask: int) -> tuple[str, ...]:
    """Return the names of the bits that are set in NVML's mask of reasons."""
    return tuple(
        _CLOCK_REASONS.get(1 << bit, f"reason {1 << bit:#x}") for bit in range(mask.bit_length()) if mask >> bit & 1
    )
