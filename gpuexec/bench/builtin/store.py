"""Keeps what was measured of each machine, in a folder of the user's."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from gpuexec.bench.builtin.machine import key_of
from gpuexec.bench.builtin.model import MachineResult, read_machine_result, result_as_dict
from gpuexec.errors import ConfigurationError
from gpuexec.private_folder import private_folder, state_folder, state_path

FOLDER = "builtin"
_MOST_KEPT = 100  # of one machine


def save(result: MachineResult) -> Path:
    """Store a result beside the earlier ones of its machine, of which the newest hundred are kept.

    Raises ``OSError`` and, without a home directory, ``RuntimeError``.
    """
    folder = private_folder(state_folder(FOLDER) / key_of(result.machine))
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(result.started_at))
    path = folder / f"{stamp}-{os.urandom(3).hex()}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result_as_dict(result), indent=1, allow_nan=False), encoding="utf-8")
    partial.replace(path)
    for old in sorted(folder.glob("*.json"))[:-_MOST_KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def earlier_results(machine: dict[str, object]) -> tuple[list[MachineResult], list[str]]:
    """Return what was measured of a machine before, the oldest first, and a sentence for each damaged file."""
    try:
        files = sorted((state_path(FOLDER) / key_of(machine)).glob("*.json"))
    except RuntimeError:  # no home directory
        return [], []
    results, problems = [], []
    for file in files:
        try:
            results.append(load_result(file))
        except ConfigurationError as error:
            problems.append(str(error))
    return results, problems


def load_result(path: Path) -> MachineResult:
    """Return the result in a file. Raises ``ConfigurationError`` if it cannot be read, or is none."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is damaged: it is not JSON ({error})") from error
    return read_machine_result(data, str(path))
