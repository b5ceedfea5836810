"""``gpuexec top`` attached to real runs from other processes; the runs never notice."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec import events
from gpuexec.hardware import telemetry
from gpuexec.live.client import LiveClient
from gpuexec.report import run_folder
from tests.nvml_sim import nodes
from tests.process.live_runs import Runs, live_runs
from tests.process.running import ROOT, local_executor, run_command, run_local
from tests.process.stages import Apply, Item, items, same
from tests.process.stages.gpus import HoldsPlainly, OnGpu
from tests.process.waiting import wait_until

NASTY = "[bold]a\nb[/bold] 🦊" + "x" * 300


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    with live_runs(tmp_path) as runs:
        yield runs


def test_a_snapshot_of_a_run_as_text(runs: Runs):
    run = runs.start()
    wait_until((runs.folder / "go-first").exists)
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


def test_without_a_terminal_the_command_that_needs_none_is_named(runs: Runs):
    pytest.importorskip("textual", reason="gpuexec top draws with it")
    run = runs.start()
    shown = run_command("top", "--dir", runs.folder)
    assert shown.returncode == 1
    assert "standard input and standard output and standard error are not a terminal" in shown.stderr
    assert "`gpuexec top --once`" in shown.stderr
    runs.end(run)


def test_gpus_with_memory_utilisation_power_and_the_workers_on_each(nvml_node, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: True)
    nvml_node(nodes.node(nodes.metered(0), nodes.metered(1, power_average_mw=300_000)))
    sampled = threading.Event()
    shown = []

    class Seen:
        def on_event(self, event: events.RunEvent) -> None:
            if isinstance(event, events.NodeSampled) and any(one.gpu_memory_bytes for one in event.processes):
                sampled.set()

    def tasks() -> Iterator[Item]:
        yield Item("t", 1)
        sampled.wait()
        shown.append(run_command("top", "--once", "--dir", tmp_path))

    stages = [HoldsPlainly(), OnGpu(workers=1, gpus=1, name="second")]
    executor = local_executor(sample_interval_s=0.05, observers=[Seen()], run_dir=str(tmp_path))
    assert len(list(executor.execute_iter(stages, tasks()))) == 1
    (top,) = shown
    assert top.returncode == 0, top.stderr
    words = [line.split() for line in top.stdout.splitlines()]
    assert ["GPU", "memory", "SM", "power", "temperature", "workers"] in words
    assert ["0", "2.0/80", "GiB", "60", "%", "70", "W", "34", "°C", "on_gpu-0"] in words
    assert ["1", "0.0/80", "GiB", "60", "%", "300", "W", "34", "°C", "second-0"] in words
    (worker,) = [line for line in words if line[:3] == ["on_gpu-0", "ready", "0"]]
    assert worker[-3:-1] == ["2.0", "GiB"], "the GPU memory of the worker's process"
