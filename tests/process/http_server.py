"""An HTTP server like one of a model: it takes a while over each request, and is busy at times."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class ModelServer:
    """Answers ``GET /NUMBER`` with the number's double after ``seconds``.

    ``fails_first``: the numbers whose first requests get 503, and how many. ``most_in_flight`` and ``requests`` count
    what it has seen, ``connections`` those that were opened.
    """

    def __init__(self, seconds: float, fails_first: dict[int, int]) -> None:
        self.seconds = seconds
        self.fails_first = fails_first
        self.in_flight = self.most_in_flight = self.connections = 0
        self.requests: Counter[int] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while request := await reader.readline():
            number = int(request.split()[1][1:])
            while (await reader.readline()).strip():
                pass
            self.requests[number] += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            await asyncio.sleep(self.seconds)
            self.in_flight -= 1
            is_busy = self.requests[number] <= self.fails_first.get(number, 0)
            status, body = ("503 Busy", "") if is_busy else ("200 OK", str(2 * number))
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()
        writer.close()


@contextmanager
def model_server(seconds: float = 0.01, fails_first: dict[int, int] | None = None) -> Iterator[tuple[ModelServer, int]]:
    """Run a server in a thread, and give it and its port."""
    server = ModelServer(seconds, fails_first or {})
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server, listening.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
