"""The descriptors 0, 1 and 2, which a program may have been started without (daemons, cron, ``2>&-``)."""

from __future__ import annotations

import contextlib
import os
import sys

_STANDARD = (0, 1, 2)


def occupy_standard_descriptors() -> None:
    """Open ``/dev/null`` in the place of those that are closed.

    The next socket or pipe would get their numbers otherwise, and starting a process would overwrite it there: a
    worker's standard streams have these numbers too.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:  # another thread opened something in between
                os.dup2(opened, descriptor, inheritable=False)
                os.close(opened)


def discard_what_cannot_be_written() -> None:
    """Empty stderr's buffer into ``/dev/null`` if it cannot be written.

    Python would try to write it at exit and, failing again, end with status 120, although the run has succeeded.
    """
    try:
        sys.stderr.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            _flush_into_nothing(sys.stderr.fileno())
    except (AttributeError, ValueError):  # there is none, or it is closed
        return


def _flush_into_nothing(descriptor: int) -> None:
    kept = os.dup(descriptor)
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, descriptor)
        os.close(nothing)
        sys.stderr.flush()
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
