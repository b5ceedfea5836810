"""A run in a real notebook kernel: the display is one output, drawn in place, and closes with the run's table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.process.running import run_python

pytest.importorskip("ipykernel", reason="it is the kernel of notebooks")
pytest.importorskip("nbclient", reason="it runs notebooks")

# In a process of its own, since nbclient leaves an event loop behind.
EXECUTE = """
import json, sys
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(sys.argv[1])])
nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
print(json.dumps(notebook.cells[0].outputs))
"""
CELL = """
from loguru import logger
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import Apply, Range
from tests.process.stages.displays import nap

executor = LocalExecutor(progress_interval_s=0.2, warm_idle_s=0{options})
done = Pipeline("p", stages=[Range(30), Apply(nap, name="<b>nap</b>")]).run(executor)
logger.warning("the caller has {{}} tasks", len(done))
"""


def outputs_of(options: str) -> list[dict[str, Any]]:
    """Run the cell in a notebook kernel, and return what stands below it."""
    done = run_python("-c", EXECUTE, CELL.format(options=options), PYDEVD_DISABLE_FILE_VALIDATION="1")
    assert done.returncode == 0, done.stderr
    outputs: list[dict[str, Any]] = json.loads(done.stdout)
    return outputs


def test_the_table_is_drawn_in_place():
    outputs = outputs_of("")
    (drawn,) = [output["data"] for output in outputs if output["output_type"] == "display_data"]
    assert drawn["text/plain"].startswith("done in ")
    assert "<b>nap</b>" in drawn["text/plain"]
    assert "&lt;b&gt;nap&lt;/b&gt;" in drawn["text/html"]
    assert "<b>" not in drawn["text/html"]
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    assert "the caller has 30 tasks" in printed
    assert "in flight" not in printed, "no lines for logs are printed beside the table"


def test_without_progress_nothing_is_drawn():
    assert [output["output_type"] for output in outputs_of(", show_progress=False")] == ["stream"]
