"""A bug in a stage, as ``gpuexec run`` tells it: on one screen, with everything else in a log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.process.running import run_command, run_python

WIDTH = 80
DECODE_ERROR = (
    "json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
)


def told(tmp_path: Path, *arguments: object) -> str:
    """Run a pipeline that fails, and return what the command writes. It must fit on one screen of 80 by 24."""
    done = run_command("run", *arguments, COLUMNS=str(WIDTH), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.replace(str(tmp_path), "/home/me/.local/state").splitlines()
    rows = sum(max(1, -(-len(line) // WIDTH)) for line in lines)
    assert rows < 25, done.stderr
    return done.stderr


def told_of(tmp_path: Path, bug: str, *arguments: object) -> str:
    return told(tmp_path, "tests/process/stages/bugs.py:pipeline", "--set", f"bug={bug}", *arguments)


def log_named_in(text: str) -> str:
    (path,) = re.findall(r"^everything else: (.*)$", text, re.MULTILINE)
    return Path(path).read_text()


@pytest.mark.parametrize(
    ("bug", "parts"),
    [
        ("plain", ["bugs.py", "in plain\n    return value // (value - 5)\n", "ZeroDivisionError: ", "tasks 0_5\n"]),
        (
            "in_a_library",
            [
                "in in_a_library\n    return indirectly(str(value))\n",
                "in read_settings\n",
                "^^^^",
                "3 frames of json, down",
                DECODE_ERROR,
                "tasks 0_0\n",
            ],
        ),
        (
            "chained",
            [
                '    raise RuntimeError("cannot start") from error\n',
                "RuntimeError: cannot start\n",
                "  caused by KeyError: 'settings' (bugs.py, line ",
                f"  caused by {DECODE_ERROR} (bugs.py, line ",
            ],
        ),
        (
            "grouped",
            ["ExceptionGroup: nine of nine (9 sub-exceptions)\n", f"  1. {DECODE_ERROR} (bugs.py", "  and 6 more\n"],
        ),
        ("Batches", ["in process_batch\n", "LookupError: no such batch\n", "0_6, 0_7 and 92 more\n"]),
        (
            "FailsToSetUp",
            ["in setup\n    open(", "FileNotFoundError: ", "raised in setup() of stage 'fails_to_set_up'"],
        ),
        ("without_end", ["frames of your code\n", "RecursionError: ", "tasks 0_0\n"]),
        ("wordy", ["ValueError: 0 very long text", "more lines\n", "tasks 0_0\n"]),
        (
            "exits",
            ["' of stage 'buggy' died during process: exited with code 3", "attempt 3 of 3"],
        ),
    ],
)
def test_a_bug_is_told_on_one_screen(tmp_path: Path, bug: str, parts: list[str]):
    text = told_of(tmp_path, bug)
    for part in (*parts, "failed in ", "stage 'fails_to_set_up'" if bug == "FailsToSetUp" else "stage 'buggy'"):
        assert part in text
    (capsule,) = (tmp_path / "gpuexec" / "capsules").iterdir()
    assert f"to run it again: gpuexec replay {capsule}\n" in text
    assert "/gpuexec/driver/" not in text
    log = log_named_in(text)
    assert str(capsule) in log
    if bug in ("in_a_library", "chained", "grouped"):
        assert "raw_decode" in log, "the frames of libraries too"


def test_the_table_gives_way_to_the_failure(tmp_path: Path):
    text = told_of(tmp_path, "plain", "--set", "stages=10", "-o", "show_progress=false")
    assert "more 9" not in text
    assert "ZeroDivisionError" in text
    assert "more 9" in log_named_in(text)


def test_a_bug_in_an_inline_run(tmp_path: Path):
    text = told_of(tmp_path, "in_a_library", "--executor", "inline")
    assert "raised in process() of stage 'buggy', tasks 0_0\n" in text
    assert "in read_settings\n" in text
    assert "site-packages" not in text


def test_a_bug_in_the_function_that_makes_the_pipeline(tmp_path: Path):
    text = told(tmp_path, "tests/process/stages/bugs.py:broken_pipeline")
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in broken_pipeline\n" in text
    assert "raw_decode" in log_named_in(text)


def test_a_log_that_cannot_be_written_does_not_hide_the_failure(tmp_path: Path):
    (tmp_path / "file").touch()
    done = run_command(
        "run", "tests/process/stages/bugs.py:pipeline", "--set", "bug=plain", XDG_STATE_HOME=str(tmp_path / "file")
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "everything else: nowhere, since no log can be written" in done.stderr


def test_secrets_are_masked_in_the_log(tmp_path: Path):
    done = run_command(
        "run",
        "tests/process/stages/bugs.py:pipeline",
        "--set",
        "bug=plain",
        "-o",
        "batch_timeout_s=77",
        XDG_STATE_HOME=str(tmp_path),
        HF_TOKEN="batch_timeout_s=77",
    )
    log = log_named_in(done.stderr)
    assert "batch_timeout_s=77" not in log
    assert "run tests/process/stages/bugs.py:pipeline --set bug=plain -o " in log


def test_the_traceback_of_a_script_has_no_frames_of_the_driver(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "from gpuexec import LocalExecutor\n"
        "from tests.process.stages.bugs import *\n"
        "class Mine(Apply):\n"
        "    def process(self, task):\n"
        "        return plain(5)\n"
        "if __name__ == '__main__':\n"
        "    Pipeline('p', stages=[Range(9), Mine(abs, 'mine')]).run(LocalExecutor(show_progress=False))\n"
    )
    done = run_python(script, XDG_STATE_HOME=str(tmp_path), PYTHONPATH=".")
    assert "    return plain(5)\n" in done.stderr
    assert "gpuexec replay" in done.stderr
    assert "/gpuexec/driver/" not in done.stderr
    assert len(done.stderr.splitlines()) < 25
