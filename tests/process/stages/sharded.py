"""Sources that are cut into shards."""

from __future__ import annotations

from dataclasses import dataclass

from gpuexec import ProcessingStage
from tests.process.stages import Item


@dataclass(repr=False)
class Named(Item):
    """Its id comes from its content."""

    def get_deterministic_id(self) -> str:
        return f"file-{self.data}"


class Numbers(ProcessingStage[Item, Item]):
    """Source: numbers, known by their position, or by their content if ``named``."""

    name = "numbers"

    def __init__(self, count: int, *, named: bool = False) -> None:
        self.count = count
        self.named = named

    def process(self, task: Item) -> list[Item]:
        return [(Named if self.named else Item)("test", number) for number in range(self.count)]


class AskedNumbers(Numbers):
    """The same, and its numbers come from a server."""

    async def process(self, task: Item) -> list[Item]:
        return Numbers.process(self, task)


class DeclaredNumbers(ProcessingStage[Item, Item]):
    """Source, also of initial tasks: ten numbers of each."""

    name = "declared_numbers"
    is_source_stage = True

    def process(self, task: Item) -> list[Item]:
        return [Item("test", task.data * 10 + number) for number in range(10)]


class Stored(ProcessingStage[Item, Item]):
    """A sink that fails at one number, if it has any."""

    name = "stored"
    is_sink_stage = True

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at = fails_at

    def process(self, task: Item) -> Item:
        if task.data == self._fails_at:
            raise ValueError(f"number {task.data}")
        return task


class Double(ProcessingStage[Item, Item]):
    """Doubles a number."""

    name = "double"

    def process(self, task: Item) -> Item:
        return Item("test", task.data * 2)
