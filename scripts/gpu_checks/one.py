"""Makes one check, in a process of its own, and writes what came of it to a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from gpu_checks.catalogue import chosen
from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Outcome, Result


def look(check: Check, machine: Machine) -> Result:
    """Make a check. Whatever it raises, there is a result."""
    start = time.monotonic()
    try:
        seen = check.look(machine)
    except CannotCheck as reason:
        return _ended(check, start, Outcome.SKIPPED, str(reason))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("gpuexec", "gpu_checks"):
            raise
        return _ended(check, start, Outcome.SKIPPED, f"this interpreter lacks {error.name}")
    except Exception as error:  # noqa: BLE001 - that it fails is what is to be reported
        traceback.print_exc()
        return _ended(check, start, Outcome.FAIL, f"{type(error).__name__}: {error}")
    outcome = Outcome.FAIL if seen.problems else Outcome.PASS
    return Result(check.name, check.proves, outcome, seen.summary, seen.problems, time.monotonic() - start, seen.data)


def _ended(check: Check, start: float, outcome: Outcome, reason: str) -> Result:
    return Result(check.name, check.proves, outcome, reasons=(reason,), seconds=time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--library")
    parser.add_argument("--no-library", default="no library for CUDA was named")
    parser.add_argument("--energy-s", type=float, required=True)
    given = parser.parse_args()
    (check,) = chosen([given.name])
    work = given.folder / "work"
    work.mkdir()
    result = look(check, Machine(work, given.library, given.no_library, given.energy_s))
    (given.folder / "result.json").write_text(json.dumps(result.to_dict()))


if __name__ == "__main__":
    main()
    sys.exit(0)
