"""Debuggers in workers, and tracebacks of what a script or a notebook defines."""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path

import pytest

from gpuexec.errors import StageError
from tests.process.running import logged, run_local, run_python
from tests.process.stages import Apply, debugging, items


@pytest.mark.parametrize("stop", [debugging.stop_at_breakpoint, debugging.call_set_trace])
def test_a_breakpoint_in_a_worker_says_what_to_do_instead(stop, monkeypatch):
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    text = str(run_local([Apply(stop)], items(1), raises=StageError).error)
    assert f"{Path(debugging.__file__)}, line {stop.__code__.co_firstlineno + 1}" in text
    for hint in ("InlineExecutor", "gpuexec replay", "--pdb", "PYTHONBREAKPOINT"):
        assert hint in text


def test_pythonbreakpoint_decides_if_it_is_set(monkeypatch):
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    assert run_local([Apply(debugging.stop_at_breakpoint)], items(1)).data == [1]
    monkeypatch.setenv("PYTHONBREAKPOINT", f"{debugging.__name__}.debug")
    with logged() as messages:
        assert run_local([Apply(debugging.stop_at_breakpoint)], items(1)).data == [1]
    assert "apply-0 | debugged" in messages


SCRIPT = """
from gpuexec import LocalExecutor, Pipeline, ProcessingStage
from tests.process.stages import items

def invert(value):
    return [1 / v for v in (value,)]  # the line at fault

class Mine(ProcessingStage):
    name = "mine"
    def process(self, task):
        return invert(task.data)  # its caller

if __name__ == "__main__":
    Pipeline("p", stages=[Mine()]).run(LocalExecutor(show_progress=False, capsules=False), items(0))
"""


def test_tracebacks_of_a_scripts_code_show_file_and_line(tmp_path: Path):
    script = tmp_path / "my_script.py"
    script.write_text(SCRIPT)
    done = run_python(script, PYTHONPATH=str(Path(__file__).parents[2]))
    assert f'File "{script}", line 11, in process\n    return invert(task.data)  # its caller' in done.stderr
    assert (
        f'File "{script}", line 6, in invert\n    return [1 / v for v in (value,)]  # the line at fault' in done.stderr
    )


def test_a_stages_traceback_begins_in_the_stage():
    error = run_local([Apply(debugging.divide)], items(0), raises=ZeroDivisionError).error
    assert error is not None
    frames = [line for line in str(error.__cause__).splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" in ")[2] for frame in frames] == ["process", "divide"]


def test_tracebacks_of_a_notebooks_code_show_the_cell():
    cell = "<cell 7>"
    source = "def invert(value):\n    return 1 / value  # in the cell\n"
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    namespace = {"__name__": "__main__"}
    exec(compile(source, cell, "exec"), namespace)  # as IPython does
    try:
        error = run_local([Apply(namespace["invert"])], items(0), raises=ZeroDivisionError).error
    finally:
        del linecache.cache[cell]
    text = "".join(traceback.format_exception(error))
    assert f'File "{cell}", line 2, in invert\n    return 1 / value  # in the cell' in text
