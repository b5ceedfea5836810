"""Finds and reads checkpoint folders beside each other, within a limit of time: their file system may be slow."""

from __future__ import annotations

import glob
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from gpuexec.checkpoint.history import read_history
from gpuexec.checkpoint.journal import FILE_NAME, SUBFOLDER
from gpuexec.checkpoint.overview import Folder, FolderState, state_of
from gpuexec.checkpoint.shard_folders import shard_named, shards_in
from gpuexec.errors import CheckpointError
from gpuexec.shards import Shard

_THREADS = 16  # a network file system answers many questions at once
T = TypeVar("T")


def survey(paths: Sequence[str], *, max_failures: int, timeout_s: float) -> list[Folder]:
    """Read the checkpoint folders that ``paths`` name: folders, folders that contain some, or patterns of a shell.

    ``timeout_s``: for all together. A folder that cannot be read, or does not answer in time, is returned as that.

    Raises ``CheckpointError`` if a path names nothing, or the folders cannot be listed in time.
    """
    deadline = time.monotonic() + timeout_s
    found = _answers([lambda: [folder for path in paths for folder in _named_by(path)]], deadline)[0]
    if isinstance(found, Exception):
        raise found
    if found is None:
        raise CheckpointError(f"the folders could not be listed {_late(timeout_s)}")
    folders = list(dict.fromkeys(found))
    answers = _answers([_reader(folder, max_failures) for folder in folders], deadline)
    return [
        answer
        if isinstance(answer, Folder)
        else Folder(str(path), FolderState.UNREADABLE, shard_named(path.name), problem=_problem(answer, timeout_s))
        for path, answer in zip(folders, answers, strict=True)
    ]


def has_checkpoint(path: Path) -> bool:
    """Return whether a run has used this folder as its checkpoint."""
    return (path / SUBFOLDER / FILE_NAME).is_file()


def _named_by(text: str) -> Iterable[Path]:
    path = Path(text)
    if glob.has_magic(text) and not path.exists():
        matches = sorted(glob.glob(text))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            raise CheckpointError(f"no folder matches {text!r}")
        return [folder for match in matches if Path(match).is_dir() for folder in _named_by(match)]
    if has_checkpoint(path):
        return [path]
    inside = list(shards_in(path).values())
    if path.is_dir():
        inside += [each for each in sorted(path.iterdir()) if each not in inside and has_checkpoint(each)]
    return inside or [path]


def _reader(path: Path, max_failures: int) -> Callable[[], Folder]:
    def read() -> Folder:
        named = shard_named(path.name)
        if named is not None and path.is_dir() and not has_checkpoint(path):
            return Folder(str(path), FolderState.NOT_BEGUN, named)
        history = read_history(path, max_failures=max_failures)
        recorded = history.runs[-1].shard if history.runs else None
        shard = Shard.read(recorded, str(path)) if recorded is not None else named  # the folder may have been renamed
        return Folder(str(path), state_of(history), shard, history)

    return read


def _answers(calls: Sequence[Callable[[], T]], deadline: float) -> list[T | Exception | None]:
    """Return what the calls return or raise, each in a thread; ``None`` for one that has not come back in time.

    Its thread is left: nothing can end it while the kernel waits for a file system.
    """
    answers: list[T | Exception | None] = [None] * len(calls)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(calls)):
        waiting.put(number)
    done: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                answers[number] = calls[number]()
            except Exception as error:  # noqa: BLE001 - it is what is told about this folder
                answers[number] = error
            done.put(number)

    for _ in range(min(_THREADS, len(calls))):
        threading.Thread(target=work, name="gpuexec-checkpoints", daemon=True).start()
    for _ in calls:
        try:
            done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
    return list(answers)


def _problem(answer: object, timeout_s: float) -> str:
    return f"no answer {_late(timeout_s)}" if answer is None else str(answer)


def _late(timeout_s: float) -> str:
    return f"within {timeout_s:g} s: the file system is slow, or its server is gone; --timeout waits longer"
