"""Writes files that are either whole or not there, so that an interrupted run can go on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gpuexec.dedup.errors import OutputNotWritten


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield where to write a file. It gets its name when the block has gone through, else it is removed.

    Raises `OutputNotWritten` if that cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputNotWritten(
            f"{path} cannot be written: {error.strerror or error}. Mend that, and the same call goes on from there"
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing as `written` does."""
    with written(path) as part, part.open("wb") as file:
        yield file


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, as `written` does."""
    with opened(path) as file:
        file.write(json.dumps(value, indent=1).encode())


def read_json(path: Path) -> Any:
    """Return the value of a file of JSON, ``None`` if there is no such file."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads(path.read_bytes())
    return None
