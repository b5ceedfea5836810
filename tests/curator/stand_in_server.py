"""A stand-in for what is on the network: an endpoint like OpenAI's, whose answers follow from the prompt, and files."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCORES = {"Fluency": 4, "Accuracy": 5, "Idiomaticity": 4, "Terminology": 3, "Handling_of_Format": 5}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve until the block ends. Yields the address: ``/v1`` is the endpoint, everything else a file of the folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = folder / self.path.lstrip("/")
            if self.path.startswith("/v1/models"):
                self._send({"object": "list", "data": [{"id": "m", "object": "model"}]})
            elif path.is_file():
                self._send(path.read_bytes())
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": answer(asked["messages"])}
            self._send(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": asked["model"],
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                }
            )

        def _send(self, body: bytes | dict) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def answer(messages: list[dict]) -> str:
    """Return scores where the prompt asks for them, a wrapped text where it wants one, else the end of the prompt."""
    content = messages[-1]["content"]
    text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    system = str(messages[0]["content"])
    if "Fluency" in text + system:
        return json.dumps(SCORES)
    if "\u3018" in text + system:
        return f"\u3018{len(text)} {text.split()[-1]}\u3019"
    return f"- answer of {len(text)} characters\n- {text.strip()[-20:]}"
