"""What may go wrong with the documents or the folders of a deduplication."""

from __future__ import annotations

from gpuexec.errors import GpuexecError


class DedupError(GpuexecError):
    """A deduplication cannot begin or go on; the message says what to change."""


class UnreadableInput(DedupError):
    """A file of documents is missing, damaged or changed, or does not have what the settings say."""


class DuplicateIds(DedupError):
    """Two documents have the same id, so that removing one by its id would remove the other too."""


class OutputInUse(DedupError):
    """The output folder has the results of other settings or documents, or another process is writing to it."""


class OutputNotWritten(DedupError, OSError):
    """The output folder cannot be written, for instance since the disk is full."""
