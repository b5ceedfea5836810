"""The live table of a real run on a pseudo-terminal: the log above it is whole, and nothing of the table remains."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from tests.process.running import ROOT

pyte = pytest.importorskip("pyte", reason="it emulates a terminal")

PROGRAM = """
import sys
from loguru import logger
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import Apply, Range, same
from tests.process.stages.display import sleep_and_print
stages = [Range(12), Apply(sleep_and_print)] + [Apply(same, name=f"spare_{n}") for n in range(int(sys.argv[1]))]
for task in Pipeline("p", stages=stages).run_iter(LocalExecutor()):
    print("the caller got", task.data)
"""


@pytest.mark.parametrize(("columns", "rows", "spare"), [(80, 24, 0), (40, 6, 6)])
def test_a_run_on_a_terminal(columns, rows, spare):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "PYTHONUNBUFFERED")}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(spare)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**env, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        try:
            while chunk := terminal.read(65536):
                written += chunk
        except OSError:  # Linux's end of file of a pseudo-terminal
            pass
    assert program.wait() == 0, written.decode()
    screen = pyte.HistoryScreen(columns, rows, history=10_000)
    pyte.ByteStream(screen).feed(written)
    away = ["".join(row[x].data for x in range(columns)) for row in screen.history.top]
    text = "".join([*away, *screen.display])  # a long line goes on in the next row
    assert b"running for" in written
    assert "running for" not in text
    for n in range(12):
        assert text.count(f"stage says {n};") == 1
        assert text.count(f"the caller got {n} ") == 1
