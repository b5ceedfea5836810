"""The examples do what their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

ABOUT = (
    "The library reads the configuration of every device, compares it with what the stages ask for, and "
    "starts one process for each share. A process that ends without being asked to is reported with its last "
    "lines, the signal that ended it and the tasks it had in flight, so that nobody has to guess what happened. "
)


def run_example(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=100,
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    original = "\n".join(f"{ABOUT} This is paragraph number {word}." for word in ("one", "two", "three", "four"))
    (folder / "a.txt").write_text(original)
    (folder / "b_same.txt").write_text(original.replace("\n", "\r\n"))
    (folder / "c_nearly.txt").write_text(original.replace("number four", "number five"))
    (folder / "d_short.md").write_text("Too short.")
    (folder / "e_binary.txt").write_bytes(b"\x00\x01\x02" * 100)
    (folder / "f_empty.txt").write_text(" \n")
    other = " ".join(f"Chapter {chr(97 + i % 26) * 3} explains another subject {i * i}." for i in range(60))
    (folder / "g_other.rst").write_text(other)
    return folder


@pytest.mark.parametrize(("executor", "times"), [("local", 2), ("inline", 1)])
def test_curate_docs_keeps_and_drops_the_right_documents(docs: Path, tmp_path: Path, executor: str, times: int):
    output = tmp_path / "out"
    for _ in range(times):  # a second run replaces the output of the first
        done = run_example("curate_docs.py", "--root", str(docs), "--output", str(output), "--executor", executor)
        assert done.returncode == 0, done.stderr
    assert "7 documents read = 2 kept + 5 dropped" in done.stdout
    parts = [pq.read_table(path) for path in output.glob("part-*.parquet")]
    kept = {Path(row["path"]).name: row for table in parts for row in table.to_pylist()}
    assert set(kept) == {"a.txt", "g_other.rst"}
    assert abs(sum(x * x for x in kept["a.txt"]["embedding"]) - 1) < 1e-5
    dropped = {Path(row["path"]).name: row["reason"] for row in pq.read_table(output / "dropped.parquet").to_pylist()}
    assert dropped == {
        "b_same.txt": "exact duplicate",
        "c_nearly.txt": "near duplicate",
        "d_short.md": "fewer than 50 words",
        "e_binary.txt": "binary",
        "f_empty.txt": "empty",
    }


def test_curate_docs_says_where_it_cannot_write(docs: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    done = run_example("curate_docs.py", "--root", str(docs), "--output", str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: [Errno 17] File exists")


def test_debug_stage_runs_through_without_a_debugger():
    done = run_example("debug_stage.py", PYTHONBREAKPOINT="0")
    assert done.stdout.splitlines() == ["0_0_0 [1000, 500, 250]", "0_2_0 [125, 100]"]


def test_bench_embedding_finds_the_paragraph_itself():
    wanted = 'Assignments to "__debug__" are illegal.'
    done = run_example("bench_embedding.py", "--count", "12", "--like", wanted)
    assert done.returncode == 0, done.stderr
    *found, last = done.stdout.splitlines()
    assert last == "12 paragraphs embedded"
    assert wanted in found[0]
