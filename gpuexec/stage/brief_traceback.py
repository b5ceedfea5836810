"""A traceback in few lines: the frames of the user's own code, and what became of the rest in a line.

Frames of the standard library, of installed packages and of gpuexec itself are counted and not shown. Where an
exception comes from another one, or is a group of them, each of those takes a line with the place that it comes from.
"""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import PurePath

_OWN_FOLDER = os.path.join(os.path.realpath(os.path.dirname(os.path.dirname(__file__))), "")  # noqa: PTH118, PTH120
_STANDARD_FOLDERS = tuple(
    os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
    for folder in dict.fromkeys((sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")))
)
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}
_MAX_FRAMES = 4  # the first and the last ones
_MAX_PACKAGES = 4
_MAX_OTHERS = 3  # exceptions that it comes from, or of a group
_MAX_TEXT_LINES = 5
_MAX_TEXT = 240  # characters of one of them


def brief_traceback(error: BaseException) -> str:
    """Return the traceback of an exception, in 20 lines at most.

    If none of the user's code is in it, the frames after the last one of gpuexec are shown, such as those of a stage
    from an installed package. Empty if there are none either. A syntax error in a file that gpuexec imports names the
    file itself, so that no frames are shown.
    """
    frames = _frames(error)
    shown = [position for position, frame in enumerate(frames) if _is_users(frame)]
    if not shown and isinstance(error, SyntaxError) and error.filename is not None:
        return "\n".join(_text_lines(error))
    if not shown:
        own = [position for position, frame in enumerate(frames) if _is_own(frame)]
        shown = list(range(own[-1] + 1 if own else 0, len(frames)))
    if not shown:
        return ""
    lines = ["Traceback (most recent call last):", *_stack_lines(frames, shown), *_text_lines(error)]
    if isinstance(error, BaseExceptionGroup):
        leaves = list(_leaves(error))
        lines += [f"  {number}. {_in_a_line(leaf)}" for number, leaf in enumerate(leaves[:_MAX_OTHERS], 1)]
        if len(leaves) > _MAX_OTHERS:
            lines.append(f"  and {len(leaves) - _MAX_OTHERS} more")
    origins = list(_origins(error))
    lines += [f"  {relation} {_in_a_line(origin)}" for relation, origin in origins[:_MAX_OTHERS]]
    if len(origins) > _MAX_OTHERS:
        lines.append(f"  and {len(origins) - _MAX_OTHERS} more")
    return "\n".join(lines)


def _frames(error: BaseException) -> Sequence[traceback.FrameSummary]:
    return traceback.extract_tb(error.__traceback__)


def _is_own(frame: traceback.FrameSummary) -> bool:
    return os.path.realpath(frame.filename).startswith(_OWN_FOLDER)


def _is_users(frame: traceback.FrameSummary) -> bool:
    path = frame.filename
    if path.startswith("<"):
        return path.startswith(("<stdin", "<ipython"))
    real = os.path.realpath(path)
    return not real.startswith((_OWN_FOLDER, *_STANDARD_FOLDERS)) and _PACKAGE_FOLDERS.isdisjoint(PurePath(real).parts)


def _stack_lines(frames: Sequence[traceback.FrameSummary], positions: Sequence[int]) -> Iterator[str]:
    """Yield the frames at these positions, and a line for those between and after them."""
    shown = positions if len(positions) <= _MAX_FRAMES else [positions[0], *positions[1 - _MAX_FRAMES :]]
    at = shown[0]
    for position in shown:
        yield from _left_out(frames[at:position])
        formatted = "".join(traceback.StackSummary.from_list([frames[position]]).format()).splitlines()
        yield from formatted if position == shown[-1] else formatted[:2]  # what is marked matters in the last one
        at = position + 1
    for line in _left_out(frames[at:]):
        yield f"{line}, down to {_place(frames[-1])}"


def _left_out(frames: Sequence[traceback.FrameSummary]) -> Iterator[str]:
    if not frames:
        return
    packages = list(dict.fromkeys(map(_package, frames)))
    where = ", ".join(packages[:_MAX_PACKAGES]) + (", …" if len(packages) > _MAX_PACKAGES else "")
    yield f"  … {len(frames)} frame{'s' if len(frames) > 1 else ''} of {where}"


def _package(frame: traceback.FrameSummary) -> str:
    """Return the name of the package or the standard module that a frame is in."""
    if _is_users(frame):
        return "your code"
    if _is_own(frame):
        return "gpuexec"
    parts = PurePath(frame.filename).parts
    for folder in _PACKAGE_FOLDERS.intersection(parts):
        return PurePath(parts[parts.index(folder) + 1]).stem
    real = os.path.realpath(frame.filename)
    for folder in _STANDARD_FOLDERS:
        if real.startswith(folder):
            return PurePath(real[len(folder) :]).parts[0].removesuffix(".py")
    return frame.filename


def _place(frame: traceback.FrameSummary) -> str:
    return f"{PurePath(frame.filename).name}, line {frame.lineno}, in {frame.name}"


def _text_lines(error: BaseException) -> list[str]:
    lines = _own_text(error).splitlines() or [type(error).__name__]
    if len(lines) > _MAX_TEXT_LINES:
        lines = [*lines[: _MAX_TEXT_LINES - 1], f"… {len(lines) - _MAX_TEXT_LINES + 1} more lines"]
    return [_cut(line) for line in lines]


def _in_a_line(error: BaseException) -> str:
    """Name an exception, what it says and where it comes from: the innermost of the user's frames, if there is one."""
    frames = _frames(error)
    users = [frame for frame in frames if _is_users(frame)]
    where = f" ({_place((users or frames)[-1])})" if frames else ""
    return _cut(" ".join(_own_text(error).split()), 120) + where


def _own_text(error: BaseException) -> str:
    """Return the class and the text of an exception, without its notes: who shows it shows them too."""
    described = traceback.TracebackException(type(error), error, None)
    described.__notes__ = None
    return "".join(described.format_exception_only()).rstrip("\n")


def _cut(text: str, limit: int = _MAX_TEXT) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _origins(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """Yield the exceptions that this one comes from, the last one first, and how they are related to it."""
    seen = {id(error)}
    current: BaseException | None = error
    while current is not None:
        by_cause = current.__cause__ is not None
        following = current.__cause__ if by_cause or current.__suppress_context__ else current.__context__
        if following is None or id(following) in seen:
            return
        seen.add(id(following))
        yield "caused by" if by_cause else "while handling", following
        current = following
