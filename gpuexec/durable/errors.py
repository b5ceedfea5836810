"""What can be wrong with a checkpoint."""

from __future__ import annotations

from gpuexec.errors import GpuexecError


class CheckpointError(GpuexecError):
    """A checkpoint cannot be read or written: in use, no journal, disk full, no permission, a newer format."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint belongs to another pipeline; the message says how they differ and what to do."""
