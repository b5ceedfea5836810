"""The clock of a trace: microseconds since the beginning of a period of three months.

PyTorch's profiler (libkineto) counts from the same moment, which it writes as ``baseTimeNanoseconds``. So a trace of
gpuexec and one of a profiler that ran inside a stage belong together as they are.
"""

from __future__ import annotations

_PERIOD_S = 7_889_238  # three months, as libkineto rounds them


def base_of(posix_time: float) -> int:
    """Return the POSIX time that the clock of a trace begun at ``posix_time`` counts from, in seconds."""
    return int(posix_time) // _PERIOD_S * _PERIOD_S


class TraceClock:
    """Turns seconds of the monotonic clock into microseconds of a trace.

    ``at`` and ``posix_time``: the same moment by both clocks, in seconds.
    """

    def __init__(self, at: float, posix_time: float) -> None:
        self.base = base_of(posix_time)
        self._offset = posix_time - self.base - at

    def at(self, seconds: float) -> float:
        """Return microseconds of the trace."""
        return (seconds + self._offset) * 1e6
