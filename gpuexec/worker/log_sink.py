"""Sends this process's log records to the driver, with their level, time and logger.

A worker's console is the driver's log. So nothing is added to what a stage has configured: where a logging library
writes a record to stdout or stderr, in whatever format, the record is sent in place of the text. Loguru's handlers
pass their record with the text. For the standard library, `LogSink` notes which record each handler is working on.

A stage that configures nothing logs as loguru does by default, and as the driver's levels say for the standard
library.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any

from gpuexec.channel.log_frames import encode_prints_for, encode_record
from gpuexec.channel.messages import LogLine
from gpuexec.curator.registration import after_import
from gpuexec.worker.console import Pipe, replace_standard_streams

_LEVELS = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "SUCCESS": 25, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}


class _Thread(threading.local):
    """What one thread is logging."""

    handled: Any = None  # the standard library's record that a handler is working on
    sent: Any = None  # the last one that was sent
    sent_extra: Any = None  # of the last loguru record that was sent: a dict of its own


class LogSink:
    """Installs itself in the standard streams at once, and in the standard library's logging when it is imported."""

    def __init__(self) -> None:
        self._pipe = Pipe()
        self._fd = os.dup(sys.stdout.fileno())  # the stage may point its stdout elsewhere
        self._level = "TRACE"
        self._levels: Mapping[str, int] = {}
        self._disabled = 0
        self._thread = _Thread()
        self._prints_for = 0
        self.stage = 0  # of the group, which logs and prints now
        self._streams = replace_standard_streams(self._pipe, self._claim)
        after_import("logging", self._install)

    def configure(self, level: str, logging_levels: Mapping[str, int], logging_disabled: int) -> None:
        """Set the lowest level to send, and the driver's levels for the standard library's loggers."""
        self._level = level
        self._levels = logging_levels
        self._disabled = logging_disabled
        if level == "TRACE":
            os.environ.setdefault("LOGURU_LEVEL", level)  # the default handler's is DEBUG
        self.apply_levels()

    def move_to(self, output_fd: int) -> None:
        """Send what is printed and logged to another pipe, whose descriptor is closed: this is a forked worker."""
        for stream in self._streams:
            os.dup2(output_fd, stream.fileno())
            stream.start_over()
        os.dup2(output_fd, self._fd, inheritable=False)
        os.close(output_fd)

    def apply_levels(self) -> None:
        """Set the driver's levels. Called again when the stage is loaded: its libraries may have set their own."""
        logging = sys.modules.get("logging")
        if logging is None:
            return
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        if self._disabled:
            logging.disable(self._disabled)

    # ---- the standard library's logging ------------------------------------------------------------------

    def _install(self, logging: Any) -> None:
        thread, handle, handle_error = self._thread, logging.Handler.handle, logging.Handler.handleError

        def handle_noting_record(handler: Any, record: Any) -> Any:
            outer, thread.handled = thread.handled, record
            try:
                return handle(handler, record)
            finally:
                thread.handled = outer

        def handle_error_as_text(handler: Any, record: Any) -> None:
            if not _can_be_formatted(record):  # not the handler's fault
                self._send_logging(record)
                return
            outer, thread.handled = thread.handled, None
            try:
                handle_error(handler, record)
            finally:
                thread.handled = outer

        logging.Handler.handle = handle_noting_record
        logging.Handler.handleError = handle_error_as_text
        if logging.lastResort is not None:
            logging.lastResort.setLevel(logging.NOTSET)  # where no handler is set up, the loggers' levels decide
        self.apply_levels()

    # ---- records on their way to the console -------------------------------------------------------------

    def _claim(self, text: str) -> bool:
        """Whether a text is that of a log record, which is then sent, once, if its level is high enough."""
        record = self._thread.handled
        if record is not None:
            self._send_logging(record)
            return True
        if type(text) is not str and isinstance(getattr(text, "record", None), dict):
            self._send_loguru(text.record, text)  # type: ignore[attr-defined]
            return True
        if self.stage != self._prints_for:
            self._prints_for = self.stage
            with contextlib.suppress(OSError):
                self._pipe.write(self._fd, encode_prints_for(self.stage))
        return False

    def _send_logging(self, record: Any) -> None:
        thread = self._thread
        extra = getattr(record, "extra", None)  # loguru's, if loguru has passed the record on to a handler
        if record is thread.sent or (extra is not None and extra is thread.sent_extra):
            return
        thread.sent = record
        self._send(
            LogLine(
                level=record.levelname,
                level_no=record.levelno,
                text="\n".join(filter(None, [_message(record), *_trace(record.exc_info), record.stack_info])),
                time=record.created,
                name=record.name,
                function=record.funcName or "",
                line=record.lineno,
                path=record.pathname,
                library="logging",
                stage=self.stage,
            )
        )

    def _send_loguru(self, record: dict[str, Any], formatted: str) -> None:
        thread, extra = self._thread, record["extra"]
        if extra is thread.sent_extra or extra is getattr(thread.sent, "extra", None):
            return
        thread.sent_extra = extra
        self._send(
            LogLine(
                level=record["level"].name,
                level_no=record["level"].no,
                text=_loguru_text(record, formatted),
                time=record["time"].timestamp(),
                name=record["name"],
                function=record["function"],
                line=record["line"],
                path=record["file"].path,
                stage=self.stage,
            )
        )

    def _send(self, line: LogLine) -> None:
        if line.level_no >= self._lowest_level():
            with contextlib.suppress(OSError):  # the stage has closed all descriptors
                self._pipe.write(self._fd, encode_record(line))

    def _lowest_level(self) -> int:
        known = _LEVELS.get(self._level)
        if known is None and "loguru" in sys.modules:
            with contextlib.suppress(ValueError):  # this process does not know the level
                known = sys.modules["loguru"].logger.level(self._level).no
        return known or 0


def _can_be_formatted(record: Any) -> bool:
    try:
        record.getMessage()
    except Exception:  # noqa: BLE001 - arguments may be of any class
        return False
    return True


def _message(record: Any) -> str:
    """Return the text of a record. One whose arguments do not fit its format says so: the stage is at fault."""
    try:
        return str(record.getMessage())
    except Exception as error:  # noqa: BLE001 - as above
        problem = f"cannot be formatted: {type(error).__name__}: {error}"
    try:
        return f"{record.msg} (arguments {record.args!r}; {problem})"
    except Exception:  # noqa: BLE001 - as above
        return f"{record.msg!r} ({problem})"


def _loguru_text(record: dict[str, Any], formatted: str) -> str:
    """Return message and traceback. A record that went through loguru's queue has the latter in its text only."""
    message, error = str(record["message"]).rstrip("\n"), record["exception"]
    if error and error[2] is None and message in formatted:
        return message + str(formatted).partition(message)[2].rstrip("\n")
    return "\n".join([message, *_trace(error)])


def _trace(error: Any) -> list[str]:
    """Return the traceback of (type, value, traceback), if there is one."""
    if not error or error[0] is None:
        return []
    return ["".join(traceback.format_exception(*error)).rstrip("\n")]
