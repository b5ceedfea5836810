"""The Python snippets of README.md that need NeMo Curator run as they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.test_readme import CURATOR


@pytest.mark.parametrize("snippet", CURATOR, ids=range(1, len(CURATOR) + 1))
def test_snippet_reads_input_and_writes_output(snippet: str, tmp_path: Path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    script = tmp_path / "snippet.py"
    script.write_text(snippet)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    written = "".join(path.read_text() for path in (tmp_path / "output").glob("*.jsonl"))
    rows = [json.loads(line) for line in written.splitlines()]
    assert sorted(row["text"] for row in rows) == ["one", "two"]
    assert len({row["id"] for row in rows}) == 2
