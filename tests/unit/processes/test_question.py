"""Questions to a fresh Python: answers, failures, limits; nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.processes.question import Question
from tests.process.waiting import wait_until


@pytest.fixture
def ask(tmp_path):
    def ask(code: str, limit_s: float = 30.0):
        script = tmp_path / "script.py"
        script.write_text(code)
        with Question(script, limit_s) as question:
            return question.answer()

    return ask


def test_an_answer(ask):
    answer, reason = ask("import sys; print('{\"pid\": ' + sys.argv[1] + '}')")
    assert (answer, reason) == ({"pid": os.getpid()}, "")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit(7)", "exited with status 7"),
        ("print('no JSON')", "exited with status 0"),
        ("print('[1]')", "exited with status 0"),
        ("1/0", "exited with status 1: "),
        ("import os; os.abort()", "was killed by SIGABRT"),
    ],
)
def test_no_answer(ask, code, reason):
    answer, said = ask(code)
    assert answer is None
    assert said.startswith(f"the process that was asked {reason}")


def test_the_last_lines_say_why(ask):
    assert ask("1/0")[1].endswith("ZeroDivisionError: division by zero")


def test_much_output_does_not_block_it(ask):
    assert ask("import sys; sys.stderr.write('x' * 10**6); print('{}')") == ({}, "")


def test_the_limit_is_kept_and_all_processes_are_ended(tmp_path):
    script, pids = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(
        f"""
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child.pid}} ")
time.sleep(600)
"""
    )
    with Question(script, 0.1) as question:
        wait_until(lambda: pids.exists() and pids.read_text().endswith(" "))
        assert question.answer() == (None, "there was no answer within 0.1 s")
    wait_until(lambda: all(state_of(pid) in (None, "Z") for pid in pids.read_text().split()))


def state_of(pid: str) -> str | None:
    """Return the state of a process, "Z" if it has ended and nobody has asked; ``None`` if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def test_who_does_not_wait_ends_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import time; time.sleep(600)")
    with pytest.raises(KeyboardInterrupt), Question(script, 60.0):
        raise KeyboardInterrupt
