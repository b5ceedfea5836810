"""examples/curator_text.py on gpuexec and, with one line changed, on Curator's Ray Data backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.curator.ray_command import asks_ray

EXAMPLE = Path(__file__).parents[2] / "examples" / "curator_text.py"


def run_example(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLE), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def kept(folder: Path) -> set[str]:
    return {json.loads(line)["path"] for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()}


@asks_ray
def test_both_executors_keep_the_same_documents(tmp_path: Path):
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    for number in range(20):
        text = " ".join(f"word{chr(97 + (i * number) % 26)} number" for i in range(10 + 5 * number))
        (docs / f"{number:02}.txt").write_text(text.replace("digit", "0"))
    (docs / "symbols.txt").write_text("$%& " * 200)
    said = run_example("--root", str(docs), "--output", str(out))
    assert said.startswith("21 documents read, ")
    assert "word_count" in said
    run_example("--root", str(docs), "--output", str(out), "--executor", "ray")
    assert kept(out / "kept-local") == kept(out / "kept-ray")
    assert 0 < len(kept(out / "kept-local")) < 21
