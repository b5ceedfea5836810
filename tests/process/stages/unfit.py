"""Stages that cannot be forked for, cannot be sent, or ask for what is not there, for ``gpuexec doctor``.

It is imported by the command only: it starts a thread when it is.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from gpuexec import Pipeline, ProcessingStage
from tests.process.stages import Item, Range

threading.Thread(target=threading.Event().wait, name="poller", daemon=True).start()


class Noisy(ProcessingStage[Item, Item]):
    """Takes batches, so that it is fused with no other."""

    name = "noisy"
    batch_size = 4

    def process(self, task: Item) -> Item:
        return task

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        return tasks


class Locked(Noisy):
    """Holds what cannot be pickled."""

    name = "locked"

    def __init__(self) -> None:
        self.lock: Any = threading.Lock()


class Demanding(Noisy):
    """Asks for packages, one of which is not there."""

    name = "demanding"
    runtime_env: ClassVar[dict[str, Any]] = {"pip": ["absent-package==1", "psutil"]}


def unfit() -> Pipeline:
    return Pipeline("unfit", stages=[Range(3), Noisy(), Locked(), Demanding()])
