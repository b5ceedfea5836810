"""Measures what a run costs around its stages: in this process, in workers, and as four shards beside each other.

Each run is a program of its own, from its start to its end, as a batch job is. A run of one source gives the fixed
cost; what a run of many takes beyond that, over their number, is the cost of a source. Of three runs the fastest
counts: whatever else runs on the machine only ever makes them slower.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_REPEATS = 3
_MANY = 20_000
SHARDS = 4
_SCRIPTS = Path(__file__).resolve().parents[1]
_PROGRAM = """
import sys
from gpuexec import {executor}
from scaling.stages import pipeline
pipeline(sys.argv[1]).run({executor}(show_progress=False, run_dir=None))
"""
_IMPORT = "import gpuexec; gpuexec.Pipeline"
WAYS = {
    "InlineExecutor": "InlineExecutor",
    "LocalExecutor": "LocalExecutor",
    f"{SHARDS} shards of LocalExecutor, side by side": "LocalExecutor",
}


def measure() -> dict[str, Any]:
    """Return the figures: what each way costs in seconds, from the fastest of three runs, and where they are from."""
    ways = {}
    for name, executor in WAYS.items():
        shards = SHARDS if "shards" in name else 1
        few, many = (_fastest(executor, count, shards) for count in (1, _MANY))
        ways[name] = {"fixed_s": few, "per_source_s": (many - few) / _MANY}
    one, part = (_fastest("LocalExecutor", count, 1, only_first_of=SHARDS) for count in (1, _MANY))
    return {
        "taken": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "sources": _MANY,
        "import_s": min(_seconds([["-c", _IMPORT]]) for _ in range(_REPEATS)),
        "ways": ways,
        # A shard lists all sources, makes them, drops three quarters, and processes the rest.
        "dropped_source_s": _dropped(one, part, ways["LocalExecutor"]["per_source_s"]),
    }


def _dropped(one: float, part: float, per_source_s: float) -> float | None:
    """Return what a source costs that is dropped: the time beyond that of the sources which the shard keeps.

    ``None`` if the difference is lost in the noise.
    """
    kept = _MANY / SHARDS
    seconds = (part - one - kept * per_source_s) / (_MANY - kept)
    return seconds if seconds > 0 else None


def _fastest(executor: str, count: int, shards: int, only_first_of: int | None = None) -> float:
    program = ["-c", _PROGRAM.format(executor=executor), str(count)]
    places = [f"0/{only_first_of}"] if only_first_of else [f"{k}/{shards}" if shards > 1 else "" for k in range(shards)]
    return min(_seconds([program] * len(places), places) for _ in range(_REPEATS))


def _seconds(programs: list[list[str]], places: list[str] | None = None) -> float:
    """Run programs beside each other; return the seconds until the last has ended."""
    environments = [{"GPUEXEC_SHARD": place} if place else {} for place in places or [""]]
    began = time.perf_counter()
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_SCRIPTS), *sys.path]), **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments, environment in zip(programs, environments, strict=True)
    ]
    for process in running:
        _, error = process.communicate()
        if process.returncode:
            raise SystemExit(f"a measured run failed:\n{error}")
    return time.perf_counter() - began
