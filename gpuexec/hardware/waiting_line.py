"""Runs that wait for the same GPUs stand in a line: the first to wait is the first to be served.

Without one, whoever looked first after a GPU was given back would have it, and a run that asks for much could wait for
ever behind small ones. A place in the line is a file in the folder of leases, given up with the process that has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from gpuexec.hardware.lease_folder import HeldFile, LeaseFolder
from gpuexec.hardware.model import Holder

_SUFFIX = ".waits"
_DIGITS = 9  # of a place's number, so that names sort like numbers


class WaitingLine:
    """One run's view of the line. ``pipeline``: the run's, for others to read. Call it while the folder is locked."""

    def __init__(self, folder: LeaseFolder, pipeline: str | None = None) -> None:
        self._folder = folder
        self._pipeline = pipeline
        self._place: HeldFile | None = None

    def ahead(self, uuids: Collection[str]) -> tuple[Holder, ...]:
        """Return who waits for one of these devices and came before: all of them, if this run has no place yet."""
        found = []
        for path, fields in self._places():
            if self._place is not None and path.name >= self._place.path.name:
                break
            if not set(uuids).isdisjoint(fields.get("uuids", uuids)):
                found.append(Holder.of(fields))
        return tuple(found)

    def join(self, uuids: Collection[str]) -> None:
        """Take a place at the end, if this run has none. Raises ``OSError``."""
        if self._place is None:
            last = max((int(path.name.partition(".")[0]) for path, _ in self._places()), default=0)
            self._place = self._folder.new_file(f"{last + 1:0{_DIGITS}}", _SUFFIX)
            self._place.write({"uuids": sorted(uuids), "pipeline": self._pipeline})

    def leave(self) -> None:
        """Give the place up; idempotent, and the folder need not be locked."""
        if self._place is not None:
            self._place.close()
            self._place = None

    def _places(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in self._folder.held(_SUFFIX):
            fields = self._folder.fields_of(path) if path.name[:_DIGITS].isdigit() else None
            if fields is not None:
                yield path, fields
