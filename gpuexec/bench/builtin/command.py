"""``gpuexec bench --builtin``: measures this machine, stores the figures, and shows them beside others."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from gpuexec.bench.builtin.judge import Judgement, judge
from gpuexec.bench.builtin.measure import measure_machine
from gpuexec.bench.builtin.model import MachineResult, result_as_dict
from gpuexec.bench.builtin.store import earlier_results, load_result, save
from gpuexec.bench.builtin.view import result_lines
from gpuexec.errors import ConfigurationError
from gpuexec.private_folder import state_folder
from gpuexec.records import Record

_MOST_COLUMNS = 120


class BuiltinRun(Record):
    """What was measured, beside earlier runs on this machine and a reference. ``path``: where it is stored.

    ``problems``: what of all that could not be read or written, a sentence for each.
    """

    result: MachineResult
    earlier: tuple[Judgement, ...]
    reference: tuple[Judgement, ...] | None
    path: str | None
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as ``--json`` prints it."""
        return {
            **result_as_dict(self.result),
            "earlier": [_plain(each) for each in self.earlier],
            "reference": None if self.reference is None else [_plain(each) for each in self.reference],
            "path": self.path,
        }


def run_builtin(
    reference: Path | None = None, disks: Sequence[Path] = (), *, full: bool = False, shows_progress: bool = False
) -> BuiltinRun:
    """Measure this machine, store the figures, and compare them.

    ``reference``: a file of an earlier call, of any machine. ``disks``: folders on the disks to measure (default: the
    folder where runs are kept). ``full``: more and longer repeats, for several minutes. Raises ``ConfigurationError``
    for a reference or a folder that cannot be used, before anything is measured.
    """
    beside = None if reference is None else load_result(reference)
    folders = [_folder(path) for path in disks] or [state_folder("runs")]
    result = measure_machine(folders, full=full, begins=_say if shows_progress else lambda _: None)
    others, problems = earlier_results(dict(result.machine))
    path = None
    try:
        path = str(save(result))
    except (OSError, RuntimeError) as error:
        problems.append(f"the figures could not be stored: {error}")
    return BuiltinRun(
        result=result,
        earlier=tuple(judge(result, others)),
        reference=None if beside is None else tuple(judge(result, [beside])),
        path=path,
        problems=tuple(problems),
    )


def builtin(
    reference: Path | None = None, disks: Sequence[Path] = (), *, full: bool = False, as_json: bool = False
) -> None:
    """Do it, and print it."""
    done = run_builtin(reference, disks, full=full, shows_progress=True)
    if as_json:
        typer.echo(json.dumps(done.to_dict(), indent=2))
    else:
        width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
        for line in result_lines(done.result, done.earlier, done.reference, width):
            typer.echo(line)
        if done.path is not None:
            typer.echo(f"\nstored: {done.path}")
    for problem in done.problems:
        typer.echo(f"note: {problem}", err=True)


def _plain(judgement: Judgement) -> dict[str, Any]:
    return {name: getattr(judgement, name) for name in judgement.__dataclass_fields__}


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ConfigurationError(f"--disk {path}: there is no such folder")
    return path.absolute()


def _say(group: str) -> None:
    sys.stderr.write(f"measuring {group} …\n")
    sys.stderr.flush()
