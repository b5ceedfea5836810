"""Asynchronous stages, and a server for those that ask one."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item


class Sleeps(ProcessingStage[Item, Item]):
    """Waits for ``seconds`` and logs how many calls its worker has in flight, itself included."""

    name = "sleeps"
    resources = Resources(cpus=0.25)

    def __init__(self, seconds: float = 0.01, workers: int | None = 1) -> None:
        self.seconds = seconds
        self.workers = workers
        self.in_flight = 0

    def num_workers(self) -> int | None:
        return self.workers

    async def setup(self, worker_metadata: Any = None) -> None:
        self.loop = asyncio.get_running_loop()
        await asyncio.sleep(0)

    async def process(self, task: Item) -> Item:
        assert asyncio.get_running_loop() is self.loop, "one loop from setup() to teardown()"
        self.in_flight += 1
        try:
            self._log_metric("in_flight", self.in_flight)
            await self.work(task)
            self._log_metric("of_task", task.data)
        finally:
            self.in_flight -= 1
        task.data *= 2
        return task

    async def work(self, task: Item) -> None:
        await asyncio.sleep(self.seconds)

    async def teardown(self) -> None:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)


class EndsInReverse(Sleeps):
    """A task is done after the next one is; the last is numbered ``last``."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    async def setup(self, worker_metadata: Any = None) -> None:
        await super().setup(worker_metadata)
        self.done = [asyncio.Event() for _ in range(self.last + 1)]

    async def work(self, task: Item) -> None:
        await (super().work(task) if task.data == self.last else self.done[task.data + 1].wait())
        self.done[task.data].set()


class FailsAt(Sleeps):
    """Raises about one number, in the first ``times`` attempts, after it has waited beside others."""

    def __init__(self, folder: Path, number: int, error: str = "ConnectionError", times: int = 99) -> None:
        super().__init__()
        self.folder = folder
        self.number = number
        self.error = error
        self.times = times

    async def work(self, task: Item) -> None:
        await super().work(task)
        if task.data == self.number and self.attempt() <= self.times:
            await self.fail()

    def attempt(self) -> int:
        (self.folder / f"{time.monotonic_ns()}-{os.getpid()}").touch()
        return len(list(self.folder.iterdir()))

    async def fail(self) -> None:
        raise {"ConnectionError": ConnectionError, "ValueError": ValueError, "TimeoutError": TimeoutError}[self.error](
            f"no {self.number}"
        )


class DiesAt(FailsAt):
    """Kills its process at one number."""

    async def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class HangsAt(FailsAt):
    """Waits without end at one number."""

    async def fail(self) -> None:
        await asyncio.Event().wait()


class RefusesToEndAt(FailsAt):
    """Waits without end at one number, and goes on waiting when it is cancelled, as a client may that asks again."""

    async def fail(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


class BlocksAt(FailsAt):
    """Blocks its event loop at one number."""

    async def fail(self) -> None:
        time.sleep(60)


class ExitsAt(FailsAt):
    async def fail(self) -> None:
        raise SystemExit(3)


class Pairs(Sleeps):
    """Takes batches, and makes one task of each."""

    name = "pairs"
    batch_size = 2

    async def process_batch(self, tasks: list[Item]) -> list[Item]:
        self.in_flight += 1
        self._log_metric("in_flight", self.in_flight)
        await asyncio.sleep(self.seconds)
        self.in_flight -= 1
        return [Item("test", tuple(task.data for task in tasks))]


class FansOut(Sleeps):
    """Makes as many tasks of each as its number; of an odd one, none."""

    async def process(self, task: Item) -> list[Item] | None:  # type: ignore[override]
        await asyncio.sleep(0.001 * (task.data % 3))
        return None if task.data % 2 else [Item("test", (task.data, number)) for number in range(task.data)]


class Unavailable(Exception):
    """The server has answered with a status that is not 200."""


class AsksServer(ProcessingStage[Item, Item]):
    """Sends each task to an HTTP server, over connections that it keeps, and returns the answer."""

    name = "asks_server"
    resources = Resources(cpus=0.25)
    max_concurrency = 8

    def __init__(self, port: int) -> None:
        self.port = port

    def num_workers(self) -> int:
        return 1

    async def setup(self, worker_metadata: Any = None) -> None:
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def process(self, task: Item) -> Item:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /{task.data} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        status = int((await reader.readline()).split()[1])
        length = 0
        while line := (await reader.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answer = (await reader.readexactly(length)).decode()
        self.idle.append((reader, writer))
        self._log_metric("status", status)
        if status != 200:
            raise Unavailable(status)
        return Item("test", answer)

    async def teardown(self) -> None:
        for _, writer in self.idle:
            writer.close()
            await writer.wait_closed()
