"""``gpuexec top`` attached to real runs from other processes; the runs never notice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec.live import address
from gpuexec.live.client import LiveClient
from gpuexec.report import run_folder
from tests.process.running import ROOT, local_executor, run_command, run_local
from tests.process.stages import Apply, items, same
from tests.process.waiting import wait_until

# A run that goes on until the file ``go`` is there.
PROGRAM = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.stages.displays import UntilThere

stages = [UntilThere(sys.argv[2], name=sys.argv[3]), UntilThere(sys.argv[2], name="second")]
executor = LocalExecutor(run_dir=sys.argv[1], show_progress=False, warm_idle_s=0, fusion="off", **eval(sys.argv[5]))
print(len(Pipeline(sys.argv[4], stages=stages).run(executor, initial_tasks=items(*range(20)))))
"""
NASTY = "[bold]a\nb[/bold] 🦊" + "x" * 300


class Runs:
    """Starts runs whose folders are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = folder / "go"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *, stage: str = "first", pipeline: str = "curate", options: str = "{}") -> subprocess.Popen[str]:
        """Start a run, and return once one can attach to it."""
        others = len(self.sockets())
        run = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.folder, self.go, stage, pipeline, options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(run)
        if "run_dir" not in options:
            wait_until(lambda: len(self.sockets()) > others, running=run)
        return run

    def sockets(self) -> list[Path]:
        return sorted(self.folder.glob(f"*/{address.SOCKET}"))

    def end(self, run: subprocess.Popen[str]) -> None:
        """Let the runs end, and see that this one has gone through."""
        self.go.touch()
        assert run.stdout is not None
        assert run.stdout.read() == "20\n"
        assert run.wait() == 0

    def top(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command("top", "--once", *arguments, "--dir", self.folder, **environment)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    started = Runs(tmp_path)
    yield started
    started.go.touch()
    for run in started.started:
        with run:
            run.wait()


def test_a_snapshot_of_a_run_as_text(runs: Runs):
    run = runs.start()
    (socket,) = runs.sockets()
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    shown = runs.top()
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^curate · run [0-9a-f]{6} · pid \d+$", shown.stdout, re.MULTILINE)
    assert re.search(r"^first +\d+/20 ", shown.stdout, re.MULTILINE)
    assert re.search(r"^first-0 +ready ", shown.stdout, re.MULTILINE)
    runs.end(run)
    assert runs.sockets() == []


def test_a_run_that_has_ended_says_where_its_report_is(runs: Runs):
    runs.end(runs.start())
    run_id = run_folder.name_parts(run_folder.run_folders(runs.folder)[0])[2]
    for argument in ([], [run_id], ["curate"]):
        shown = runs.top(*argument)
        assert shown.returncode == 1
        assert f"What it did: gpuexec report {run_id}" in shown.stderr
    assert "no run 'other'" in runs.top("other").stderr


def test_a_run_that_was_killed(runs: Runs):
    run = runs.start()
    (socket,) = runs.sockets()
    run.kill()
    run.wait()
    assert socket.exists()
    shown = runs.top()
    assert shown.returncode == 1
    assert "(killed)" in shown.stderr


def test_two_runs_of_one_name(runs: Runs):
    first, second = runs.start(), runs.start()
    one, two = [run_folder.name_parts(socket.parent)[2] for socket in runs.sockets()]
    shown = runs.top("curate")
    assert shown.returncode == 1
    assert "2 runs of that name go on" in shown.stderr
    assert one in shown.stderr
    assert two in shown.stderr
    assert f"run {one} " in runs.top(one).stdout
    newest = runs.top()
    assert f"run {two} " in newest.stdout
    assert f"there go on too: {one} (curate)" in newest.stderr
    runs.end(first)
    runs.end(second)


def test_names_of_any_kind(runs: Runs):
    run = runs.start(stage=NASTY, pipeline=NASTY)
    shown = runs.top(COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert "[bold]a?b[/bold] 🦊" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines()) <= 80
    assert "\x1b" not in shown.stdout
    runs.end(run)


def test_a_stopped_client_and_a_second_one_do_not_hold_the_run_up(runs: Runs):
    run = runs.start()
    (socket,) = runs.sockets()
    attach = (
        "import sys\nfrom pathlib import Path\nfrom gpuexec.live.client import LiveClient\n"
        "client = LiveClient(Path(sys.argv[1]))\nprint('attached', flush=True)\n"
        "while client.is_open:\n    for message in client.messages(60): pass\n"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", attach, socket.parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert stopped.stdout.readline() == "attached\n"
        stopped.send_signal(signal.SIGSTOP)
        with LiveClient(socket.parent) as second:
            assert any("snapshot" in message for message in second.messages(20))
            runs.end(run)
            assert any("end" in message for message in second.messages(20))
        stopped.send_signal(signal.SIGCONT)
        stopped.communicate(timeout=60)
        assert stopped.returncode == 0, "it learns of the end as soon as it goes on"
    finally:
        stopped.kill()
        stopped.communicate()


def test_a_run_without_a_folder_cannot_be_attached_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert run_local([Apply(same)], items(1), run_dir=None).data == [1]
    shown = run_command("top", "--once")
    assert shown.returncode == 1
    assert "there is no run in" in shown.stderr


def test_a_run_folder_with_a_long_path(tmp_path: Path):
    folder = tmp_path.joinpath(*["a_folder_with_quite_a_long_name"] * 6)
    executor = local_executor(run_dir=str(folder))
    assert [task.data for task in executor.execute([Apply(same)], items(1, 2))] == [1, 2]
    assert executor.last_report.notes == []
    assert executor.last_report.folder.startswith(str(folder))


def test_without_textual_the_extra_is_named(runs: Runs):
    run = runs.start()
    hidden = (
        "import sys\nsys.modules['textual'] = None\nfrom gpuexec.cli import main\n"
        f"sys.argv = ['gpuexec', 'top', '--dir', {str(runs.folder)!r}]\nmain()\n"
    )
    shown = subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "pip install 'gpuexec[top]'" in shown.stderr
    assert "--once" in shown.stderr
    runs.end(run)


def test_the_display_on_a_terminal_and_q(runs: Runs):
    pyte = pytest.importorskip("pyte", reason="it emulates a terminal")
    pytest.importorskip("textual", reason="gpuexec top draws with it")
    run = runs.start(stage="[bold]first")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    top = subprocess.Popen(
        [sys.executable, "-m", "gpuexec", "top", "--dir", str(runs.folder)],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"},
    )
    os.close(theirs)
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        shown = ""
        while not ("/20" in shown and "Detach" in screen.display[-1]):
            stream.feed(terminal.read(65536))
            shown = "\n".join(line for line in screen.display if line.startswith("[bold]first"))
        assert "curate · run" in screen.display[0]
        terminal.write(b"q")
        with contextlib.suppress(OSError):  # Linux's end of file of a pseudo-terminal
            while terminal.read(65536):
                pass
    assert top.wait() == 0
    assert run.poll() is None, "the run goes on"
    runs.end(run)
