"""``gpuexec history``: the table, JSON, and folders without a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gpuexec.checkpoint.history import read_history
from gpuexec.checkpoint.journal import Journal
from gpuexec.cli.history import runs_table, show_history, summary_lines
from gpuexec.core.sources import Settled
from gpuexec.errors import CheckpointError

PIPELINE = '[{"name": "reader", "class_name": "Reader", "settings": {}}]'

app = typer.Typer()
app.command()(show_history)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for outcome in ("done", None, "ValueError: [bold]no[/bold] " + "x" * 100):
        journal = Journal.open(tmp_path)
        journal.start_run(digest="d", pipeline=PIPELINE)
        if outcome == "done":
            failed = tuple((f"0_f{n:02}", f"[red]reason {n}") for n in range(12))
            journal.record(Settled(opened=("0_p",), done=("0_a", "0_b"), failed=failed))
        if outcome:
            journal.finish_run(outcome)
        journal.close()
    return tmp_path


def output_of(*arguments: str, status: int = 3) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "120"})
    assert result.exit_code == status
    return result.output


def test_the_table(folder):
    output = output_of(str(folder))
    rows = [line.split() for line in output.splitlines()]
    assert ["1", "2", "12", "1", "done"] in [[row[0], *row[5:]] for row in rows if len(row) > 5]
    assert "interrupted (process" in output
    assert "ValueError: [bold]no[/bold]" in output
    assert "sources: 2 done, 12 failed, 1 pending; the next run processes those that are not done" in output
    assert "  failed in run 1: 0_f00: [red]reason 0\n" in output
    assert output.count("failed in run") == 10
    assert "and 2 more (--json lists them all)" in output


def test_json_has_everything(folder):
    document = json.loads(output_of(str(folder), "--json"))
    assert document["sources"] == {"done": 2, "failed": 12, "pending": 1}
    assert len(document["failures"]) == 12
    first, second, third = document["runs"]
    assert (first["outcome"], first["stages"], first["ended"] >= first["started"]) == ("done", ["reader"], True)
    assert (second["outcome"], second["ended"]) == ("interrupted", None)
    assert third["sources"] == {"done": 0, "failed": 0, "pending": 0}


def test_a_finished_checkpoint_mentions_no_next_run(tmp_path):
    journal = Journal.open(tmp_path)
    journal.start_run(digest="d", pipeline=PIPELINE)
    journal.record(Settled(done=("0_a",)))
    assert summary_lines(read_history(tmp_path)) == ["sources: 1 done, 0 failed, 0 pending"]
    assert runs_table(read_history(tmp_path)).row_count == 1
    assert "running (process" in output_of(str(tmp_path))
    journal.close()


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_folder_without_a_checkpoint(tmp_path, arguments):
    with pytest.raises(CheckpointError, match="has no checkpoint") as caught:
        output_of(str(tmp_path), *arguments)
    assert "\n" not in str(caught.value)
