"""Makes a worker write the stacks of all its threads to its output on a signal, even inside a long C call."""

from __future__ import annotations

import faulthandler
import signal

STACKS_SIGNAL = signal.SIGRTMIN + 7  # no library is known to use this number


def write_stacks_on_signal() -> None:
    """Write the stacks on ``STACKS_SIGNAL`` and on fatal signals."""
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
