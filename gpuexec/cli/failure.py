"""How a failed command is told on the terminal: in 24 lines at most, with everything else in a file."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from gpuexec._version import __version__
from gpuexec.cli.color import error_color
from gpuexec.core.recovery import HOW_TO_REPLAY
from gpuexec.errors import GpuexecError, RemoteTraceback
from gpuexec.observe.relay import failure_notice
from gpuexec.private_folder import state_folder

if TYPE_CHECKING:
    from gpuexec.report.model import RunReport

MAX_ROWS = 24  # of a terminal, for the command's own output about a failure
_MIN_TRACE_ROWS = 5
_MAX_NOTE_ROWS = 3
_MAX_LOGS = 50
_LOG_PREFIX = 75  # characters
_MAX_LINE_ROWS = 3
_LAST_LINES = 4  # of a text that is too long; its first ones tell what it is about


def show_failure(error: BaseException, report: RunReport | None = None) -> None:
    """Print what failed and where, the closing table where it fits, and the file that has everything.

    Raises ``error`` if it says nothing about the user's code or options: then it is a fault of this program.
    """
    text = _what_failed(error)
    if text is None:
        raise error
    width = Console(stderr=True).width
    table = _table(report, width)
    notes: list[str] = []
    for note in getattr(error, "__notes__", ()):
        is_command = note.startswith(HOW_TO_REPLAY)  # which is to be copied whole
        notes += [note] if is_command else fit(note, width, _MAX_NOTE_ROWS)
    places, page = [f"everything else: {_write_log(error, report, table)}"], where_report_is(report)
    left = MAX_ROWS - _rows_of_notices(report, width) - _rows([*notes, *places], width) - min(len(table), 1)
    if _rows([*text.strip("\n").splitlines(), *page], width) <= left:  # else the log says it
        places += page
        left -= _rows(page, width)
    shown = fit(text, width, max(_MIN_TRACE_ROWS, left))
    if len(table) - 1 > left - _rows(shown, width):
        table = table[:1]
    color = error_color()
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is full, gone, closed, or there is none
        for line in table:
            typer.echo(line, err=True)
        for line in (*shown, *notes):
            typer.secho(line, fg=color, err=True)
        for line in places:
            typer.echo(line, err=True)


def where_report_is(report: RunReport | None) -> list[str]:
    """Return a line that says where the page of the run is, or its folder if it has none; nothing if it has neither."""
    if report is None or report.folder is None:
        return []
    from gpuexec.report.run_folder import PAGE

    page = Path(report.folder, PAGE)
    return [f"report: {page if page.exists() else page.parent}"]


def fit(text: str, width: int, rows: int) -> list[str]:
    """Return the lines of a text, without some of its middle if they take more than ``rows`` rows of a terminal.

    A line takes three rows at most.
    """
    lines = [line.rstrip() for line in text.strip("\n").splitlines()]
    longest = width * min(rows, _MAX_LINE_ROWS)
    lines = [line if len(line) <= longest else f"{line[: longest - 1]}…" for line in lines]
    if _rows(lines, width) <= rows:
        return lines
    tail: list[str] = []
    while len(tail) < _LAST_LINES and lines and _rows([lines[-1], *tail], width) < rows // 2:
        tail.insert(0, lines.pop())
    head: list[str] = []
    while lines and _rows([*head, lines[0], "…", *tail], width) <= rows:
        head.append(lines.pop(0))
    return [*head, *([f"  … {len(lines)} more lines"] if lines else []), *tail]


def _rows(lines: Sequence[str], width: int) -> int:
    return sum(max(1, -(-len(line) // width)) for line in lines)


def _rows_of_notices(report: RunReport | None, width: int) -> int:
    """Return the rows that loguru's own format takes for what the run has noticed, failed attempts among it."""
    if report is None:
        return 0
    attempts = [failure for failure in report.failures if failure.task_ids and failure.action != "raise"]
    notices = [*report.notes, *map(failure_notice, attempts)]
    return _rows([" " * _LOG_PREFIX + line for notice in notices for line in notice.splitlines()], width)


def _what_failed(error: BaseException) -> str | None:
    """Return what the error says, and where in the user's code it was raised; ``None`` if it says nothing of it."""
    from gpuexec.stage.brief_traceback import brief_traceback

    remote = next((each for each in _causes(error) if isinstance(each, RemoteTraceback)), None)
    if isinstance(error, GpuexecError):
        return "\n".join([f"error: {error}", *([remote.brief] if remote is not None and remote.brief else [])])
    if remote is not None:
        return remote.brief or remote.text
    return brief_traceback(error) or None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _table(report: RunReport | None, width: int) -> list[str]:
    if report is None or not report.stages:
        return []
    from gpuexec.report.table import stage_table

    return list(stage_table(report).lines(width))


def _write_log(error: BaseException, report: RunReport | None, table: Sequence[str]) -> str:
    """Write all that is known to a file of the user's own. Return its path, or why there is none."""
    from gpuexec.capsules import redact

    text = "\n".join(_log_lines(error, report, table))
    text = redact.mask_text(text, redact.secrets_in(dict(os.environ)))
    try:
        folder = state_folder("logs")
        path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(text)
        for old in sorted(folder.glob("*.log"))[:-_MAX_LOGS]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError) as problem:  # RuntimeError: no home directory
        return f"nowhere, since no log can be written ({problem})"
    return str(path)


def _log_lines(error: BaseException, report: RunReport | None, table: Sequence[str]) -> Iterator[str]:
    yield f"gpuexec {__version__}, Python {sys.version.split()[0]}, in {Path.cwd()}"
    yield " ".join(sys.argv)
    yield from ("", *where_report_is(report), "", *table)
    for failure in report.failures if report is not None else ():
        yield ""
        tasks = ", ".join(failure.task_ids) or "none"
        yield f"stage {failure.stage_name!r}, worker {failure.worker_id!r}, tasks {tasks}"
        yield f"  {failure.error}"
        yield f"  {failure.action}: {failure.reason}"
        if failure.capsule:
            yield f"  gpuexec replay {failure.capsule}"
        if failure.stacks:
            yield failure.stacks
    yield from ("", *(report.notes if report is not None else ()), "")
    yield "".join(traceback.format_exception(error))
