"""Deduplication by worker processes: as in one process, also after the driver was killed, and on the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gpuexec import InlineExecutor
from gpuexec.dedup import DedupResult, FuzzyDeduplication, UnreadableInput
from tests.process.running import ROOT, local_executor, run_command
from tests.process.waiting import wait_until

SMALL = {"num_bands": 8, "minhashes_per_band": 3, "block_bytes": 4000, "partitions": 2, "remove": True}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    chance = random.Random(3)
    texts: list[str | None] = [None, ""]
    for _ in range(60):
        text = "".join(chance.choices("abcdefghij é", k=200))
        texts += [text, text[:90] + "!" + text[90:]][: chance.randint(1, 2)]
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[number::4])
        (folder / f"{number}.jsonl").write_text(lines)
    return folder


def everything(result: DedupResult) -> dict[str, object]:
    """What a deduplication has written, by the names of the files."""
    output = result.ids.parent
    files = {str(path.relative_to(output)): path for path in sorted(output.rglob("*.*")) if path.parent != output}
    return {
        name: pq.read_table(path).to_pydict() if path.suffix == ".parquet" else path.read_bytes()
        for name, path in files.items()
    }


def test_workers_write_what_one_process_writes(data: Path, tmp_path: Path):
    here = FuzzyDeduplication(data, tmp_path / "here", **SMALL).run(InlineExecutor(show_progress=False))
    there = FuzzyDeduplication(data, tmp_path / "there", **SMALL).run(local_executor())
    assert here.groups > 5
    assert everything(there) == everything(here)


def test_a_killed_run_is_gone_on_with(data: Path, tmp_path: Path):
    here = FuzzyDeduplication(data, tmp_path / "here", **SMALL).run(InlineExecutor(show_progress=False))
    program = (
        "import sys; from gpuexec import LocalExecutor; from gpuexec.dedup import FuzzyDeduplication\n"
        f"FuzzyDeduplication(sys.argv[1], sys.argv[2], **{SMALL!r}).run(LocalExecutor(show_progress=False))"
    )
    output = tmp_path / "there"
    driver = subprocess.Popen([sys.executable, "-c", program, str(data), str(output)], cwd=ROOT)
    wait_until(lambda: list((output / "work" / "keys").glob("*.json")) or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    there = FuzzyDeduplication(data, output, **SMALL).run(InlineExecutor(show_progress=False))
    assert there.resumed
    assert everything(there) == everything(here)


def test_what_is_wrong_with_a_file_keeps_its_type(data: Path, tmp_path: Path):
    (data / "4.jsonl").write_text("{")
    with pytest.raises(UnreadableInput, match=r"4\.jsonl: the line at byte 0 is not JSON"):
        FuzzyDeduplication(data, tmp_path / "out", **SMALL).run(local_executor())


def test_the_command(data: Path, tmp_path: Path):
    output = tmp_path / "out"
    settings = ("--set", "num_bands=8", "--set", "minhashes_per_band=3", "-o", "show_progress=false")
    done = run_command("dedup", "fuzzy", data, "-O", output, "--remove", *settings)
    assert done.returncode == 0, done.stderr
    assert " to remove, " in done.stdout
    assert (output / "documents" / "0.jsonl").exists()
    refused = run_command("dedup", "exact", data, "-O", output)
    assert refused.returncode == 1
    assert "has the results of another deduplication" in refused.stderr
