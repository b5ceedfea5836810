"""The color of error messages."""

from __future__ import annotations

import os


def error_color() -> str | None:
    """Return the color that errors have on a terminal; ``None`` if the user wants none (https://no-color.org)."""
    return None if os.environ.get("NO_COLOR") else "red"
