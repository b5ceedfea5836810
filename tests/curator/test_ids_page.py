"""The snippet of docs/curator-ids.md runs as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.process.running import ROOT


def test_the_snippet_numbers_documents(tmp_path: Path):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "curator-ids.md").read_text(), re.DOTALL)
    (tmp_path / "input").mkdir()
    for name in "ab":
        (tmp_path / "input" / f"{name}.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "snippet.py").write_text(snippet)
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "snippet.py"],
        check=False,
        capture_output=True,
        text=True,
        env={**environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Started a local Ray instance" not in done.stderr
    rows = [json.loads(line) for path in (tmp_path / "output").glob("*") for line in path.read_text().splitlines()]
    assert sorted(row["_curator_dedup_id"] for row in rows) == [0, 1, 2, 3]
    assert json.loads((tmp_path / "ids.json").read_text())["next_id"] == 4
