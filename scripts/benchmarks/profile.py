"""Profiles driver and workers on some workloads with py-spy, and writes the time by function to docs/profile.md."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.peers import environment
from benchmarks.workloads import BY_NAME, Workload

_DOCS = Path(__file__).parents[2] / "docs"
_SCRIPTS = Path(__file__).parents[1]
_RATE = "400"
_MAX_ROWS = 22
_HEADINGS = {"driver": "Driver", "worker": "Workers (all together)"}
_INTRO = (
    f"`scripts/profile` runs rows of [the benchmarks](benchmarks.md) and samples all processes with py-spy {_RATE} "
    "times a second. *Self* is time in the function's own code, *with callees* includes the functions it calls. Both "
    "are fractions of the samples in which the process was neither waiting nor reading its socket."
)
_WAITS = ("select (selectors", "wait (", "(start)", "Receiver.receive")

Samples = Counter[tuple[str, ...]]


def main() -> int:
    """Profile a run of each workload and write the page."""
    parser = argparse.ArgumentParser(prog="scripts/profile", description=__doc__)
    parser.add_argument("workloads", nargs="*", default=["tiny"], metavar="WORKLOAD", choices=[*BY_NAME])
    lines = ["# Profile", "", _INTRO, ""]
    for name in parser.parse_args().workloads:
        samples = _record(BY_NAME[name])
        lines += [f"## {name}", "", f"{BY_NAME[name].about}.", ""]
        for role in _HEADINGS:
            lines += _table(role, [(stack, n) for stack, n in samples if _role(stack) == role])
    (_DOCS / "profile.md").write_text("\n".join(lines).rstrip() + "\n")
    print("\n".join(lines))
    return 0


def _record(workload: Workload) -> list[tuple[list[str], int]]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples"
        spy = [str(Path(sys.executable).parent / "py-spy"), "record", "--subprocesses", "--rate", _RATE]
        target = ["-W", "ignore", "-m", "benchmarks.one", "gpuexec", workload.name, str(workload.count)]
        subprocess.run(
            [*spy, "--format", "raw", "--output", str(raw), "--", sys.executable, *target],
            check=True,
            cwd=_SCRIPTS,
            capture_output=True,
            env=environment("gpuexec", workload.library),
        )
        return [_parse(line) for line in raw.read_text().splitlines()]


def _parse(line: str) -> tuple[list[str], int]:
    stack, _, count = line.rpartition(" ")
    frames = [frame.rpartition(":")[0] for frame in stack.split(";")]
    return [frame for frame in frames if not frame.startswith("process ")] or ["(start)"], int(count)


def _role(stack: list[str]) -> str:
    return "worker" if any("gpuexec/worker/" in frame for frame in stack) else "driver"


def _table(role: str, samples: list[tuple[list[str], int]]) -> list[str]:
    working = [(stack, n) for stack, n in samples if not any(word in stack[-1] for word in _WAITS)]
    total = sum(n for _, n in working)
    own: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    for stack, n in working:
        own[stack[-1]] += n
        for frame in set(stack):
            inclusive[frame] += n
    lines = [f"### {_HEADINGS[role]}", "", "| function | self | with callees |", "|---|---|---|"]
    frames = [frame for frame, _ in own.most_common(_MAX_ROWS)]
    lines += [
        f"| `{frame})` | {100 * own[frame] / total:.1f} % | {100 * inclusive[frame] / total:.1f} % |"
        for frame in frames
    ]
    return [*lines, ""]


if __name__ == "__main__":
    sys.exit(main())
