"""The descriptors 0, 1 and 2, which a program may have been started without (daemons, cron, ``2>&-``)."""

from __future__ import annotations

import os

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
