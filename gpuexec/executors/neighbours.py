"""The other runs on this machine, as one that is being planned deals with them: what they hold, and who waits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from gpuexec.contract.pipeline_name import current_pipeline_name
from gpuexec.errors import GpusBusy
from gpuexec.hardware.lease_folder import LeaseFolder
from gpuexec.hardware.leases import HeldLeases, read_leases
from gpuexec.hardware.model import Lease, LeaseAmount
from gpuexec.hardware.waiting_line import WaitingLine


class Neighbours:
    """``configured``: the option ``lease_dir``. Without ``takes_leases``, this run only looks.

    Raises ``ConfigurationError`` if the folder is configured and cannot be used. If this user's own cannot be used, a
    warning says so, and other runs stay unknown.
    """

    def __init__(self, configured: str | None, environ: Mapping[str, str], *, takes_leases: bool) -> None:
        self._takes_leases = takes_leases
        self._pipeline = current_pipeline_name()
        self._folder: LeaseFolder | None = None
        self._line: WaitingLine | None = None
        try:
            self._folder = LeaseFolder.open(configured, environ)
        except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
            _warn(error)
        if self._folder is not None and takes_leases:
            self._line = WaitingLine(self._folder, self._pipeline)

    @contextlib.contextmanager
    def kept_from_planning(self) -> Iterator[None]:
        """Keep them from planning during the block. What else is here is called in it, but for `leave_line`."""
        with contextlib.ExitStack() as lock:
            if self._folder is not None:
                try:
                    lock.enter_context(self._folder.locked())
                except OSError as error:
                    self._do_without(error)
            yield

    def wait_for_turn(self, uuids: Sequence[str]) -> None:
        """Join the line and raise ``GpusBusy`` if others have waited longer for one of these devices."""
        ahead = self._line.ahead(uuids) if self._line is not None else ()
        if ahead:
            self.join_line(uuids)
            raise GpusBusy(
                f"{len(ahead)} run(s) of gpuexec have waited longer for these GPUs (busy_gpus='wait'): "
                + "; ".join(str(holder) for holder in ahead)
            )

    def join_line(self, uuids: Sequence[str]) -> None:
        """Take a place in the line for these devices, if this run has none."""
        if self._line is not None:
            try:
                self._line.join(uuids)
            except OSError as error:
                self._do_without(error)

    def leave_line(self) -> None:
        """Give the place up."""
        if self._line is not None:
            self._line.leave()

    def leases(self, uuids: Sequence[str]) -> dict[str, tuple[Lease, ...]]:
        """Return what they hold of these devices."""
        return {} if self._folder is None else read_leases(self._folder, uuids)

    def take(self, amounts: Mapping[str, LeaseAmount]) -> HeldLeases:
        """Take leases for this run, if it takes any, and leave the line."""
        self.leave_line()
        if self._folder is None or not self._takes_leases:
            return HeldLeases()
        try:
            return HeldLeases.take(self._folder, amounts, self._pipeline)
        except OSError as error:
            self._do_without(error)
            return HeldLeases()

    def _do_without(self, error: Exception) -> None:
        _warn(error)
        self.leave_line()
        self._folder = self._line = None


def _warn(error: Exception) -> None:
    from loguru import logger

    logger.warning(
        "GPUs are not leased, so another run may choose the same ones: the folder for leases cannot be used ({}). Set "
        "XDG_STATE_HOME, or the option lease_dir, to a folder that can be written",
        error,
    )
