"""``scripts/gpu-check``: makes the checks one after the other, prints what came of them, and writes the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_checks import isolation, library
from gpu_checks.catalogue import CHECKS, chosen
from gpu_checks.results import Check, Result, counts, document, exit_status
from gpuexec import __version__, read_node
from gpuexec.hardware.model import Node

_WIDEST, _NAME_WIDTH = 120, 24


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0 nothing failed, 1 a check failed, 2 wrong usage, 3 nothing could be checked."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.list:
        for check in CHECKS:
            _print_wrapped(check.name, check.proves)
        return 0
    try:
        checks = chosen(given.only)
        _prepare(given.json)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    name, no_library = library.choose(given.library)
    facts = _facts(name, no_library)
    _print_facts(facts)
    isolation.adopt_orphans()
    options = ["--energy-s", str(given.energy_s), *(["--library", name] if name else ["--no-library", no_library])]
    start = time.monotonic()
    results: list[Result] = []
    try:
        for check in checks:
            results.append(_make(check, options))  # noqa: PERF401 - an interrupt keeps those that are made
    except KeyboardInterrupt:
        print("\ninterrupted: the file has what was checked until then", file=sys.stderr)
        return 130
    finally:
        written = document(results, **facts, seconds=round(time.monotonic() - start, 1), energy_s=given.energy_s)
        given.json.write_text(json.dumps(written, indent=2, default=str) + "\n")
    _print_end(results, given.json)
    return exit_status(results)


def _make(check: Check, options: Sequence[str]) -> Result:
    if sys.stdout.isatty():
        print(f"… {check.name}", end="\r", flush=True)
    result = isolation.run(check, options)
    text = "; ".join(result.reasons) or result.summary
    _print_wrapped(f"{result.outcome:<8}{check.name}", f"{text} ({result.seconds:.1f} s)", _NAME_WIDTH + 8)
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check",
        description="Checks on this machine's GPUs what gpuexec promises. It changes no setting of a GPU, and uses "
        "GPUs that nobody else uses. It takes some minutes.",
        epilog="Exit status: 0 nothing failed, 1 a check failed, 2 wrong usage or interpreter, 3 nothing could be "
        "checked. See docs/gpu-truth.md.",
    )
    parser.add_argument(
        "--python", metavar="PYTHON", help="the interpreter to use, with torch or cupy (default: python3)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("gpu-check.json"), metavar="FILE", help="where to write it (gpu-check.json)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a check or a group; may be repeated (default: all)"
    )
    parser.add_argument(
        "--energy-s", type=_seconds, default=20.0, metavar="S", help="seconds over which energy is measured (20)"
    )
    parser.add_argument(
        "--library", metavar="MODULE", help="torch, cupy, or a module that does the same (default: what is installed)"
    )
    parser.add_argument("--list", action="store_true", help="say what each check proves, and check nothing")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 120:  # the check's own limit is 180 s
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 120 s")
    return value


def _prepare(path: Path) -> None:
    """See now that the file can be written. Raises ``OSError``."""
    with path.open("a"):
        pass


def _facts(name: str | None, no_library: str) -> dict[str, Any]:
    """Return what must be known of the machine to read the results. No host name, no names of processes."""
    node = read_node()
    return {
        "gpuexec": __version__,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "python": platform.python_version(),
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "library": name,
            "no_library_reason": no_library or None,
            "packages": {package: _version(package) for package in ("torch", "cupy", "numpy", "nvidia-ml-py")},
            "driver_version": node.driver_version,
            "cuda_version": node.cuda_version,
            "no_gpus_reason": node.no_gpus_reason,
            "gpus": _gpus(node),
        },
    }


def _gpus(node: Node) -> list[dict[str, Any]]:
    fields = ("index", "uuid", "name", "memory_total_bytes", "mig_enabled", "compute_capability", "compute_mode")
    return [{name: getattr(gpu, name) for name in fields} for gpu in node.gpus]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _print_facts(facts: dict[str, Any]) -> None:
    machine = facts["machine"]
    print(f"gpuexec {facts['gpuexec']}, Python {machine['python']}, driver {machine['driver_version'] or 'none'}")
    for gpu in machine["gpus"]:
        print(f"GPU {gpu['index']}: {gpu['name']}")
    if not machine["gpus"]:
        _print_wrapped("no GPU:", str(machine["no_gpus_reason"]), 8)
    if machine["library"]:
        print(f"CUDA through {machine['library']}")
    else:
        _print_wrapped("no CUDA:", f"{machine['no_library_reason']}. Checks that compute are skipped", 8)
    print()


def _print_wrapped(first: str, text: str, width: int = _NAME_WIDTH) -> None:
    columns = min(_WIDEST, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(text, max(30, columns - width - 1), break_long_words=False) or [""]
    print(f"{first:<{width}} {lines[0]}")
    for line in lines[1:]:
        print(f"{'':<{width}} {line}")
    sys.stdout.flush()


def _print_end(results: Sequence[Result], path: Path) -> None:
    print()
    print(", ".join(f"{number} {outcome}" for outcome, number in counts(results).items()) + ", written to")
    print(f"  {path}")
    print("docs/gpu-truth.md says what each check proves, and how to send the file.")
