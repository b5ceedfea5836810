"""Folders that look like a machine's root."""

from __future__ import annotations

from pathlib import Path


def files(root: Path, contents: dict[str, str]) -> Path:
    """Write files below a root and return it. A text that begins with "-> " makes a link to what follows."""
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text.removeprefix("-> "))
        else:
            path.write_text(text)
    return root
