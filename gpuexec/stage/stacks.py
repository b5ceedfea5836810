"""On a signal, a worker writes the stacks of all its threads to its output, even inside a long C call."""

from __future__ import annotations

import faulthandler
import signal

STACKS_SIGNAL = signal.SIGRTMIN + 7  # of the numbers that no library is known to use


def write_stacks_on_signal() -> None:
    """Listen to ``STACKS_SIGNAL``, and to fatal signals."""
    faulthandler.enable()
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
