"""Functions of the tests that compare runs: one of them takes twice as long."""

from __future__ import annotations

import time

NAP_S = 0.04


def nap(value: int) -> int:
    time.sleep(NAP_S)
    return value


def nap_twice(value: int) -> int:
    time.sleep(2 * NAP_S)
    return value
