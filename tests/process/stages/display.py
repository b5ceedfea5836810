"""What the stages of the live table's tests do."""

from __future__ import annotations

import time


def sleep_and_print(value: int) -> int:
    """Take some time, and say so in a line longer than a narrow terminal."""
    time.sleep(0.1)
    print(f"stage says {value}; {'x' * 50}")
    return value
