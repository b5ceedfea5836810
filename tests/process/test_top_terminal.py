"""The display of ``gpuexec top`` on a real terminal, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.process.live_runs import live_runs
from tests.process.running import ROOT
from tests.unit.live.runs import LiveRun, wait_for

pyte = pytest.importorskip("pyte", reason="it emulates a terminal")
pytest.importorskip("textual", reason="gpuexec top draws with it")

TOP = [sys.executable, "-m", "gpuexec", "top", "--dir"]
HUNG_UP = 128 + signal.SIGHUP


@pytest.fixture
def run(tmp_path: Path) -> Iterator[LiveRun]:
    """A run of this process, made of events."""
    run = LiveRun(tmp_path, "curate", "abc123")
    yield run
    run.end()


class Terminal:
    """A terminal of 80 by 24 with a program on it, which is of another session: the terminal's end sends no SIGHUP."""

    def __init__(self, *command: object, **options) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.program = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"},
            **options,
        )
        os.close(theirs)
        self.written = b""
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.program.kill()
        with contextlib.suppress(ProcessLookupError):  # where it leads no group
            os.killpg(self.program.pid, signal.SIGKILL)
        self.program.wait()

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    def wait_for(self, text: str) -> None:
        """Return once the text is on the screen."""
        while text not in "\n".join(self.lines):
            assert self._read(), f"the program has ended; the screen is {self.lines}"

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> int:
        """Show what else is written, and return the program's exit status."""
        while self._read():
            pass
        return self.program.wait()

    def close(self) -> None:
        """Let the terminal go away, as when its window is closed."""
        if self.ours >= 0:
            os.close(self.ours)
            self.ours = -1

    def _read(self) -> bool:
        with contextlib.suppress(OSError):  # Linux's end of file of a pseudo-terminal
            if received := os.read(self.ours, 65536):
                self.written += received
                self._stream.feed(received)
                return True
        return False


def show(run: LiveRun, *terminals: Terminal) -> None:
    """Return once all of them show what the run does."""
    wait_for(lambda: run.served.server._arrivals == len(terminals))
    run.served.gauge(10)
    for terminal in terminals:
        terminal.wait_for("10/100")


def test_what_it_shows_that_q_detaches_and_that_a_run_which_is_killed_is_said_to_be(tmp_path: Path):
    with live_runs(tmp_path) as runs:
        run = runs.start(stage="[bold]first")
        with Terminal(*TOP, tmp_path) as terminal, Terminal(*TOP, tmp_path) as other:
            terminal.wait_for("/20")
            terminal.wait_for("Detach")
            assert "curate · run" in terminal.lines[0]
            assert any(line.startswith("[bold]first") for line in terminal.lines)
            terminal.type(b"q")
            assert terminal.end() == 0
            other.wait_for("/20")
            assert run.poll() is None, "the run goes on"
            run.kill()
            other.wait_for("of pipeline 'curate' has ended (killed)")
            other.type(b"q")
            assert other.end() == 0
            assert b"What it did: gpuexec report" in other.written


def test_it_ends_with_its_terminal_where_no_signal_tells_it(run: LiveRun, tmp_path: Path):
    lives, its_end = os.pipe()
    in_shell = shlex.join(map(str, [*TOP, tmp_path]))
    with (
        os.fdopen(lives, "rb") as ended,
        Terminal(*TOP, tmp_path) as of_another_session,
        Terminal("setsid", "--ctty", "sh", "-c", f"trap '' HUP; {in_shell}; :", pass_fds=[its_end]) as with_shell,
    ):
        os.close(its_end)
        show(run, of_another_session, with_shell)
        with_shell.program.kill()
        with_shell.close()
        assert ended.read() == b"", "gpuexec top, whose shell was killed, has ended: it held the other end"
        of_another_session.close()
        assert of_another_session.program.wait() == HUNG_UP
    wait_for(lambda: not run.served.server.attached)


@pytest.mark.parametrize(
    ("prepare", "end", "status"),
    [
        ("end_with_terminal()", Terminal.close, HUNG_UP),
        ("leave_on_sigterm(print, patience_s=0.01)", lambda t: t.program.terminate(), 128 + signal.SIGTERM),
    ],
)
def test_it_ends_while_everything_in_it_is_blocked(prepare, end, status):
    # An unbuffered `print` writes twice, and the terminal may be gone by then.
    code = f"from gpuexec.live.terminal import *; {prepare}; os.write(1, b'on'); threading.Event().wait()"
    with Terminal(sys.executable, "-c", code) as terminal:
        terminal.wait_for("on")
        end(terminal)
        assert terminal.program.wait() == status


def test_sigterm_leaves_the_terminal_in_order(run: LiveRun, tmp_path: Path):
    with Terminal(*TOP, tmp_path) as terminal:
        show(run, terminal)
        terminal.program.terminate()
        assert terminal.end() == 128 + signal.SIGTERM
        for undone in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1003l"):  # the screen, the cursor, the mouse
            assert terminal.written.rindex(undone) > terminal.written.index(b"/100")
