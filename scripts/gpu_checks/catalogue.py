"""All checks, in the order in which they are made: what is cheap and what others build on comes first."""

from __future__ import annotations

from gpu_checks import builtin, curation, energy, faults, inventory, memory, mps, pinning, sampler, template, transport
from gpu_checks.results import Check

_GROUPS = (inventory, pinning, memory, template, transport, curation, sampler, energy, mps, faults, builtin)

CHECKS: tuple[Check, ...] = tuple(check for group in _GROUPS for check in group.CHECKS)


def chosen(names: list[str]) -> tuple[Check, ...]:
    """Return the checks that have these names, or are of groups with these names; no names: all.

    Raises ``ValueError`` for a name that none has; the text lists them.
    """
    unknown = [name for name in names if not any(_is_named(check, name) for check in CHECKS)]
    if unknown:
        known = ", ".join(check.name for check in CHECKS)
        raise ValueError(f"there is no check {unknown[0]!r}; there are {known}, and their groups")
    return tuple(check for check in CHECKS if not names or any(_is_named(check, name) for name in names))


def _is_named(check: Check, name: str) -> bool:
    return name in (check.name, check.name.partition(".")[0])
