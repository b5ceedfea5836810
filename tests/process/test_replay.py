"""``gpuexec replay`` as users type it, debugger and all."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gpuexec.capsules.write import CapsuleContents, write_capsule
from gpuexec.channel import codec
from gpuexec.contract.allocation import Allocation
from tests.process import stages
from tests.process.running import ROOT, run_command, run_python
from tests.process.stages import Apply, Item, Journal, items
from tests.process.waiting import wait_until


def written(folder: Path, stage: Any, *tasks: Item, **fields: Any) -> Path:
    given = {
        "stage": stage.name,
        "worker_id": f"{stage.name}-0",
        "node_id": "node7",
        "phase": "process",
        "attempt": 1,
        "error_type": "builtins.LookupError",
        "text": "LookupError: no 2",
        "traceback": "",
        "task_ids": [task.task_id for task in tasks],
        "allocation": dataclasses.asdict(Allocation()),
        "environ": dict(os.environ),
        "stage_payload": codec.encode(stage).join(),
        "task_payloads": [codec.encode(list(tasks)).join()],
        "sys_path": sys.path,
    }
    return write_capsule(folder / "capsules", CapsuleContents(**{**given, **fields}))


def replay(*arguments: object, typed: str = "") -> subprocess.CompletedProcess[str]:
    return run_command("replay", *arguments, typed=typed)


def test_a_batch_that_passes_now(tmp_path: Path):
    done = replay(written(tmp_path, Journal(tmp_path / "log"), *items(1, 2)))
    assert done.returncode == 0, done.stderr
    summary, warning, end = (
        done.stderr.index(message)
        for message in (
            "stage 'journal' failed in process",
            "opening the capsule's pickles",
            "the batch passes now; 2 tasks",
        )
    )
    assert summary < warning < end
    assert done.stdout == "", "stdout is the stage's own"


def test_a_batch_that_fails_again(tmp_path: Path):
    done = replay(written(tmp_path, Journal(tmp_path / "log", fail_on=2), *items(1, 2)))
    assert done.returncode == 1
    assert "LookupError: no 2\n" in done.stderr
    assert "tests/process/stages/__init__.py" in done.stderr
    assert "executors/replay.py" not in done.stderr
    assert done.stderr.endswith("replay: the batch fails again\n")
    assert (tmp_path / "log").read_text().rstrip().endswith("teardown")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (stages.raise_choosy, "in another way: builtins.LookupError then, tests.process.stages.Choosy now"),
        (stages.raise_mute, "in another way: builtins.LookupError then, tests.process.stages.Mute now"),
        (stages.call_exit, "in another way: builtins.LookupError then, builtins.SystemExit now"),
    ],
)
def test_a_batch_that_fails_in_another_way(tmp_path: Path, function: Any, message: str):
    done = replay(written(tmp_path, Apply(function), *items(1)))
    assert done.returncode == 1
    assert message in done.stderr


def test_a_batch_that_crashes_shows_where(tmp_path: Path):
    done = replay(written(tmp_path, Apply(stages.segfault), *items(1)))
    assert done.returncode == -signal.SIGSEGV
    assert "in segfault" in done.stderr


def test_the_debugger_stops_where_it_raises(tmp_path: Path):
    path = written(tmp_path, Journal(tmp_path / "log", fail_on=2), *items(1, 2))
    done = replay(path, "--pdb", typed="where\np task.data\np self.path.read_text().count('teardown')\nquit\n")
    assert done.returncode == 1
    assert "-> raise LookupError" in done.stdout
    assert "(Pdb) 2\n" in done.stdout, "p task.data"
    assert "(Pdb) 0\n" in done.stdout, "teardown waits for the debugger"
    assert done.stderr.endswith("replay: the batch fails again\n")


def test_the_debugger_at_the_end_of_its_input(tmp_path: Path):
    done = replay(written(tmp_path, Journal(tmp_path / "log", fail_on=2), *items(2)), "--pdb")
    assert done.returncode == 1
    assert (tmp_path / "log").read_text().rstrip().endswith("teardown")


def test_a_breakpoint_in_the_stage(tmp_path: Path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from gpuexec.capsules.write import write_capsule
        from tests.process.stages import Apply, items
        from tests.process.test_replay import written

        class Local(Apply):
            def process(self, task):
                there = task.data + 40
                breakpoint()
                return task

        print(written(Path({str(tmp_path)!r}), Local(abs), *items(2)), end="")
        """)
    )
    wrote = run_python(script, PYTHONPATH=str(ROOT))
    assert wrote.returncode == 0, wrote.stderr
    done = replay(wrote.stdout, typed="p there\ncontinue\n")
    assert "(Pdb) 42\n" in done.stdout
    assert done.returncode == 0, done.stderr
    done = replay(wrote.stdout, "--pdb", typed="p there\nquit\n")
    assert done.stderr.endswith("replay: quit from the debugger\n")
    assert done.returncode == 1


def test_ctrl_c_ends_a_batch_that_hangs(tmp_path: Path):
    path = written(tmp_path, Apply(stages.announce_and_wait), *items(str(tmp_path / "pid")))
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuexec", "replay", str(path), "--pdb"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), running=process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate("where\nquit\n")
    assert "announce_and_wait" in out
    assert process.returncode == 130, err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing", "there is no such folder"),
        (lambda folder: folder, "there is no capsule.json in it"),
        (lambda folder: written(folder, Apply(abs), stage_payload=b"garbage"), "cannot be unpickled here"),
    ],
)
def test_what_cannot_be_replayed_is_explained_in_one_line(tmp_path: Path, make: Any, message: str):
    done = replay(make(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_gpu_where_there_is_none(tmp_path: Path):
    done = replay(written(tmp_path, Apply(abs), *items(1)), "--gpu", "63")
    assert done.returncode == 1
    assert "error: there is no GPU 63 to replay on: " in done.stderr
    assert replay(tmp_path, "--gpu", "-1").returncode == 2


SCRIPT = """
from __future__ import annotations
from dataclasses import dataclass
from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Task

@dataclass
class Word(Task[str]):
    extra: int = 0

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True

class Shout(ProcessingStage):
    name = "shout"

    def process(self, task):
        assert isinstance(task, Word)
        return LOUDER(task)

def LOUDER(task):
    raise ValueError("a bug")

executor = LocalExecutor(show_progress=False)
Pipeline("p", stages=[Shout()]).run(executor, initial_tasks=[Word("d", "a")])
"""


def test_a_mended_script_is_replayed_with_its_present_code(tmp_path: Path):
    script = tmp_path / "shouting.py"
    script.write_text(SCRIPT)
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    failed = subprocess.run([sys.executable, script], check=False, env=environ, capture_output=True, text=True)
    assert "a bug" in failed.stderr
    (capsule,) = (tmp_path / "state/gpuexec/capsules").iterdir()
    again = replay(capsule)
    assert again.returncode == 1
    assert f"the code is that of {script} as it is now" in again.stderr

    script.write_text(SCRIPT.replace('raise ValueError("a bug")', "return task"))
    mended = replay(capsule)
    assert mended.returncode == 0, mended.stderr
    assert "the batch passes now; 1 tasks came out" in mended.stderr
    assert "the code is that of" not in replay(capsule, "--old-code").stderr
    assert replay(capsule, "--old-code").returncode == 1

    script.write_text(SCRIPT.replace("class Shout", "class Whisper"))
    renamed = replay(capsule)
    assert renamed.returncode == 1
    assert "it has no class Shout), so the code is that of the run" in renamed.stderr
    script.unlink()
    assert "is not here, so the code is that of the run" in replay(capsule).stderr
