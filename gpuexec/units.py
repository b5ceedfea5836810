"""Units of memory, and sizes as text."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(size: float) -> str:
    """Return a size with the binary unit that suits it: ``"512 B"``, ``"1.5 GiB"``."""
    unit = 0
    while abs(size) >= KIB and unit < len(_UNITS) - 1:
        size /= KIB
        unit += 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{size:.0f} B"
