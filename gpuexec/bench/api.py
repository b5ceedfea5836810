"""``gpuexec.bench(…)``: runs a pipeline with different settings, and says which are best."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuexec.bench.analysis import Analysis, analyse
from gpuexec.bench.as_dict import sweep_as_dict
from gpuexec.bench.journal import NAME
from gpuexec.bench.model import Goal, SearchKind, Sweep
from gpuexec.bench.page import write_page
from gpuexec.bench.progress import Silence, SweepProgress
from gpuexec.bench.request import BUDGET_S, LIMIT_S, Request, checked_options
from gpuexec.bench.runner import SweepRun, Watcher
from gpuexec.bench.target import Target, target_of
from gpuexec.errors import ConfigurationError, SweepImpossible
from gpuexec.private_folder import state_folder, state_path
from gpuexec.processes.interpreter import working_directory
from gpuexec.records import Record

RESULT, PAGE = "bench.json", "bench.html"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_NAME_CHARS = 60


class Bench(Record):
    """What a sweep has shown. ``print()`` shows it as a table.

    ``sweep``: points and results. ``analysis``: the points ranked, the best one, and ``analysis.answer``: the settings
    to use. ``folder``: its files: ``bench.json``, the page, the journal, and in ``runs`` a folder for each trial.
    """

    sweep: Sweep
    analysis: Analysis
    folder: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as ``bench.json`` has it."""
        return sweep_as_dict(self.sweep, self.analysis)

    def __str__(self) -> str:
        from gpuexec.bench.table import SweepTable

        return "\n".join(SweepTable(self.analysis, self.sweep).lines(100))


def bench(
    target: Any,
    vary: Mapping[str, Sequence[Any]] | None = None,
    *,
    points: Sequence[Mapping[str, Any]] = (),
    arguments: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    initial_tasks: Sequence[Any] | None = None,
    repeat: int = 5,
    warmup: int = 1,
    cooldown_s: float = 0.0,
    limit_s: float = LIMIT_S,
    goal: Goal | str = Goal.THROUGHPUT,
    search: SearchKind | str = SearchKind.GRID,
    budget_s: float = BUDGET_S,
    seed: int | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    show_progress: bool = True,
) -> Bench:
    """Run a pipeline with different settings, each several times, and say which are best.

    ``target``: a ``Pipeline`` (pickled once), a function that returns one (in a module that other processes can
    import, or in a script that starts its work under ``if __name__ == "__main__":``), or the text
    ``"MODULE_OR_FILE:OBJECT"`` for either. ``vary``: values by name; a name is ``STAGE.key`` (what the stage's
    ``with_()`` takes, ``cpus``, ``gpus``, ``gpu_memory_gb``, or a field of its dataclass), ``option.NAME`` for an
    executor option, or ``set.KEY`` for an argument of the function. All combinations are tried, and today's
    configuration. ``points``: settings by name to try instead. ``arguments``: of the function, in every trial;
    ``{scratch}`` in a text stands for a folder that is new for each trial and removed after it. ``options``: executor
    options for every trial. ``initial_tasks``: what every trial begins with.

    ``repeat``: runs of each point that count, after ``warmup`` runs that do not. ``cooldown_s``: seconds between
    trials. ``limit_s``: seconds for one trial; then it is killed, and the point listed with that reason. ``search``:
    "grid", or "halving", which gives short runs to all points and longer ones to the better half, and so on;
    ``budget_s``: seconds of its shortest runs, from their first result on. ``seed``: of the order of trials. ``out``:
    the folder (default: a new one in ``~/.local/state/gpuexec/bench``). ``resume``: go on with the sweep in it.

    Ctrl-C ends the sweep; what is done is returned, and ``sweep.complete`` is False.

    Raises ``ConfigurationError`` before anything is run for what cannot be varied, with the closest name, and
    ``SweepImpossible`` if the target cannot be loaded, or the folder has no such sweep.
    """
    request = Request(
        target="",
        directory=working_directory(),
        vary={name: tuple(values) for name, values in (vary or {}).items()},
        points=tuple(dict(settings) for settings in points),
        arguments=dict(arguments or {}),
        options=checked_options(options or {}),
        goal=_member(Goal, goal, "goal"),
        search=_member(SearchKind, search, "search"),
        repeat=repeat,
        warmup=warmup,
        seed=seed,
        budget_s=budget_s,
        cooldown_s=cooldown_s,
        limit_s=limit_s,
    )
    folder = Path(out) if out is not None else None
    watcher = SweepProgress(cooldown_s) if show_progress else Silence()
    return sweep(request, target_of(target, initial_tasks), folder, resume=resume, watcher=watcher)


def sweep(
    request: Request | None, target: Target | None, folder: Path | None, *, resume: bool, watcher: Watcher
) -> Bench:
    """Run a sweep, or go on with one, and write what it shows.

    ``request`` and ``target`` of ``None``: those that the sweep in the folder began with. Raises what `bench` raises.
    """
    if request is not None and target is not None:
        request = replace(request, target=target.name).checked()
    if folder is None:
        folder = _newest_folder() if resume else _new_folder(request)
    folder = folder.absolute()
    if resume:
        running = SweepRun.resume(folder, request, target)
    else:
        assert request is not None
        assert target is not None
        running = SweepRun.begin(request, target, folder)
    try:
        return written(running.run(watcher), folder)
    finally:
        running.close()


def written(done: Sweep, folder: Path) -> Bench:
    """Write what a sweep shows to its folder, and return it. Raises ``SweepImpossible`` if it cannot be written."""
    result = Bench(done, analyse(done), str(folder))
    try:
        text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / RESULT).write_text(text, encoding="utf-8", errors="backslashreplace")
        write_page(folder / PAGE, done, result.analysis)
    except OSError as error:
        raise SweepImpossible(
            f"{error.filename or folder} cannot be written: {error.strerror or error}. The results are kept in {NAME}: "
            "make room, and write it by --resume"
        ) from error
    return result


def _member(kind: Any, value: Any, name: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(f"{name} must be one of {', '.join(kind)}, got {value!r}") from None


def _new_folder(request: Request | None) -> Path:
    readable = _UNSAFE.sub("_", Path(request.target if request else "sweep").name)[:_MOST_NAME_CHARS].strip("._-")
    try:
        parent = state_folder("bench")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        raise SweepImpossible(f"there is no folder for the sweep ({error}): name one with --out") from error
    return parent / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{readable or 'sweep'}"


def _newest_folder() -> Path:
    try:
        found = sorted(path.parent for path in state_path("bench").glob(f"*/{NAME}"))
    except RuntimeError as error:
        raise SweepImpossible(f"there is no home directory ({error}): name the sweep's folder with --out") from error
    if not found:
        raise SweepImpossible("there is no sweep to go on with: name its folder with --out")
    return found[-1]
