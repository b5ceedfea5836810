"""Stages of two phases on one GPU: the first makes data for the second."""

from __future__ import annotations

from pathlib import Path

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item, die, hang, items


class Makes(ProcessingStage[Item, Item]):
    """Turns a size into that many bytes."""

    name = "makes"
    resources = Resources(cpus=0.5, gpus=1)

    def process(self, task: Item) -> Item:
        size = task.data
        task.data = (size.to_bytes(4, "little") * (size // 4 + 1))[:size]
        return task


class MakesAll(Makes):
    """Makes all that one task lists, in one batch."""

    def process(self, task: Item) -> list[Item]:
        return [super(MakesAll, self).process(item) for item in items(*task.data)]


class Measures(ProcessingStage[Item, Item]):
    """Turns bytes into their number, or -1 if they are not those that `Makes` made, and the names in ``folder``.

    At a size in ``ends`` it kills its worker the first time, noting that beside the folder. At 13 bytes it hangs.
    """

    name = "measures"
    resources = Resources(cpus=0.5, gpus=1)

    def __init__(self, folder: Path, ends: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.ends = ends

    def process(self, task: Item) -> Item:
        data, size = task.data, len(task.data)
        mark = self.folder.with_name(f"died at {size}")
        if size in self.ends and not mark.exists():
            mark.touch()
            die()
        if size == 13:
            self.folder.with_name("hangs").touch()
            hang()
        right = data == (size.to_bytes(4, "little") * (size // 4 + 1))[:size]
        task.data = (size if right else -1, sorted(map(str, self.folder.iterdir())))
        return task
