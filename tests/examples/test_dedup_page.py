"""The program of docs/dedup.md and the example do what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.examples.test_examples import run_example

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dedup.md").read_text()


def test_the_program_of_the_page(tmp_path: Path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    text = "The quick brown fox jumps over the lazy dog, and nobody has ever asked the dog what it thinks of it. " * 3
    lines = [text, text, text + "Really.", "Something else altogether."]
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "1 copies and 1 near copies are gone" in done.stdout


def test_the_example_removes_copies_and_edited_texts(tmp_path: Path):
    done = run_example("dedup_docs.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "--- exact" in done.stdout
    corpus = (tmp_path / "corpus" / "topics.jsonl").read_text().splitlines()
    copies = {name for name in (json.loads(line)["id"] for line in corpus) if name.endswith("(copy)")}
    assert copies <= set(removed(tmp_path / "exact" / "ExactDuplicateIds"))  # Python has topics twice, too
    assert sum(name.endswith("(edited)") for name in removed(tmp_path / "fuzzy" / "FuzzyDuplicateIds")) > 5


def removed(folder: Path) -> list[str]:
    return pq.read_table(folder)["id"].to_pylist()
