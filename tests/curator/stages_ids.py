"""Stages that ask for ids, or fail while they do."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path

import ray
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.deduplication.id_generator import create_id_generator_actor, get_id_generator_actor
from nemo_curator.stages.text.io.reader.jsonl import JsonlReaderStage
from nemo_curator.tasks import DocumentBatch, FileGroupTask

from tests.curator.asking import ask

ID = "_curator_dedup_id"


@dataclass
class DiesOnce(JsonlReaderStage):
    """Dies when its batch has its ids, the first time that it reads each file."""

    marks: str = ""

    def process(self, task: FileGroupTask) -> DocumentBatch:
        batch = super().process(task)
        mark = Path(self.marks) / Path(task.data[0]).name
        if not mark.exists():
            mark.write_text(",".join(map(str, batch.to_pandas()[ID])))
            os.kill(os.getpid(), 9)
        return batch


class FailsAt(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Raises at a text while the file ``fault`` exists."""

    name = "fails_at"

    def __init__(self, text: str, fault: Path) -> None:
        self.text = text
        self.fault = fault

    def process(self, task: DocumentBatch) -> DocumentBatch:
        if self.fault.exists() and (task.to_pandas()["text"] == self.text).any():
            raise LookupError(self.text)
        return task


class AsksInChildren(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Asks for ids from processes of its own, of every start method, and from a pool."""

    name = "asks_in_children"

    def setup(self, worker_metadata=None) -> None:
        self.generator = get_id_generator_actor()

    def process(self, task: DocumentBatch) -> DocumentBatch:
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            answers = context.SimpleQueue()
            child = context.Process(target=ask, args=(self.generator, method, answers))
            child.start()
            child.join()
            task._metadata[method] = answers.get()
        pool = multiprocessing.get_context("fork").Pool(2)
        task._metadata["pool"] = pool.starmap(ask, [(self.generator, str(number)) for number in range(8)])
        pool.close()
        pool.join()
        return task


class HidesItsActor(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Asks Ray for an actor in a way that cannot be seen in its code, and says what came of it."""

    name = "hides_its_actor"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        try:
            getattr(ray, "get_" + "actor")("counter")
        except Exception as error:
            task._metadata["answer"] = f"{type(error).__name__}: {error}"
        task._metadata["pid"] = os.getpid()
        return task


class CreatesItself(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Creates the generator where each worker would have its own."""

    name = "creates_itself"

    def process(self, task: DocumentBatch) -> DocumentBatch:
        create_id_generator_actor()
        return task
