"""A run with failures: some pages are broken, one ends its worker, and one takes a regular expression for ever."""

from __future__ import annotations

import ctypes
import json
import re
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources

from .tasks import Blob

PAGES = 240
_UNREACHABLE = (17, 111)  # at the first attempt
_CUT_OFF = (60, 190)
_CRASHES = 96
_SLOW = 200
# A word may end at any letter, so a title that does not match is tried in 2^25 ways.
_ONLY_WORDS = re.compile(r"(\w+\s?)*\.")
_SENTENCE = "the quick brown fox jumps over the lazy dog " * 4000


class Fetch(ProcessingStage[Blob, Blob]):
    """Hands out pages; for two of them the connection is refused once."""

    name = "fetch"
    resources = Resources(cpus=0.25)
    batch_size = 1

    def __init__(self) -> None:
        self._refused: set[int] = set()

    def num_workers(self) -> int:
        return 1  # which remembers what it has refused

    def process(self, task: Blob) -> Blob:
        number = task.data
        if number in _UNREACHABLE and number not in self._refused:
            self._refused.add(number)
            raise ConnectionError(f"connection to pages.example refused for page {number}")
        task.data = _page(number)
        return task


class Parse(ProcessingStage[Blob, Blob]):
    """Reads a page's JSON and takes its sentences apart."""

    name = "parse"
    resources = Resources(cpus=0.5)
    batch_size = 1

    def num_workers(self) -> int:
        return 2

    def process(self, task: Blob) -> Blob:
        page = json.loads(task.data)
        if page["number"] == _CRASHES:
            ctypes.string_at(0)  # as a library in C does when it meets a page that its authors did not think of
        task.data = {"words": len(re.findall(r"\w+", page["text"])), "plain": bool(_ONLY_WORDS.match(page["title"]))}
        return task


class Store(ProcessingStage[Blob, Blob]):
    """Turns the figures of a page into the line that would be stored."""

    name = "store"
    resources = Resources(cpus=0.25)
    batch_size = 1

    def process(self, task: Blob) -> Blob:
        task.data = json.dumps(task.data)
        return task


def _page(number: int) -> str:
    title = "x" * 26 + "!" if number == _SLOW else "fox and dog."
    page = json.dumps({"number": number, "title": title, "text": _SENTENCE})
    return page[:100_000] if number in _CUT_OFF else page


def pipeline() -> Pipeline:
    return Pipeline("parse_pages", stages=[Fetch(), Parse(), Store()])


def initial_tasks(count: int = PAGES) -> list[Blob]:
    return [Blob("pages", number) for number in range(count)]


OPTIONS: dict[str, Any] = {
    "on_task_failure": "quarantine",
    "retry_on": (ConnectionError,),
    "retry_delay_s": 0.5,
    "max_attempts": 2,
}
