"""Sends this process's loguru records to the driver.

loguru takes 0.1 s to import, so nothing happens until the stage itself has imported it. Everything else that is printed
(logging, warnings, print) reaches the driver through the worker's output pipe.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from gpuexec.channel.messages import LogLine
from gpuexec.channel.wire import BlockingConnection
from gpuexec.errors import ConnectionLost

_DEFAULT_HANDLER = 0  # the handler that loguru installs itself, on stderr


class LogSink:
    """Replaces loguru's default handler once loguru is imported; handlers that the stage adds stay."""

    def __init__(self, connection: BlockingConnection, level: str) -> None:
        self._connection = connection
        self._level = level
        self._installed = False

    def install_if_imported(self) -> None:
        """Install the handler if the stage has imported loguru. Called before every batch, so it must be cheap."""
        if self._installed or "loguru" not in sys.modules:
            return
        from loguru import logger

        self._installed = True
        with contextlib.suppress(ValueError):  # the stage has removed it already
            logger.remove(_DEFAULT_HANDLER)
        logger.add(self._send, level=self._level, format="{message}", catch=False)

    def _send(self, message: Any) -> None:
        record = message.record
        text = str(message).rstrip("\n")  # unlike record["message"], it has the traceback of logger.exception
        try:
            sent = self._connection.send(
                LogLine(
                    level=record["level"].name,
                    level_no=record["level"].no,
                    text=text,
                    time=record["time"].timestamp(),
                    name=record["name"],
                    function=record["function"],
                    line=record["line"],
                )
            )
        except ConnectionLost:
            sent = False
        if not sent:
            print(text, file=sys.stderr)
