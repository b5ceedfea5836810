"""Shards: runs beside each other process every source once, and a checkpoint folder each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuexec import InlineExecutor, Pipeline, plan
from gpuexec.checkpoint.history import read_history
from gpuexec.errors import CheckpointMismatch, StageContractError
from tests.process.running import local_executor, run_command, run_local
from tests.process.stages import Item, items
from tests.process.stages.sharded import AskedNumbers, DeclaredNumbers, Double, Numbers, Stored


def shards_of(stages, tasks=None, count: int = 3, **options) -> list[list[int]]:
    """Run all shards, in workers and inline, which must agree; return what each returned."""
    in_workers = [run_local(stages(), tasks and tasks(), shard=f"{k}/{count}", **options).data for k in range(count)]
    for k in range(count):
        executor = InlineExecutor(show_progress=False, shard=f"{k}/{count}")
        inline = Pipeline("p", stages=stages()).run(executor, initial_tasks=tasks and tasks())
        assert [task.data for task in inline] == in_workers[k]
    return in_workers


def test_what_a_source_stage_makes_is_cut_by_position():
    assert shards_of(lambda: [Numbers(8), Double()]) == [[0, 6, 12], [2, 8, 14], [4, 10]]


@pytest.mark.parametrize("fusion", ["auto", "off"])
def test_sources_with_ids_of_their_own_are_cut_by_these(fusion):
    made = shards_of(lambda: [Numbers(12, named=True), Double()], fusion=fusion)
    assert sorted(number for shard in made for number in shard) == [2 * n for n in range(12)]
    fewer = shards_of(lambda: [Numbers(9, named=True), Double()], fusion=fusion)
    assert [[n for n in shard if n < 18] for shard in made] == fewer, "a file more moves no other to another shard"


def test_initial_tasks_are_cut_before_the_first_stage():
    executor_runs = [run_local([Double()], items(*range(5)), shard=f"{k}/2") for k in range(2)]
    assert [ran.data for ran in executor_runs] == [[0, 4, 8], [2, 6]]
    assert [ran.report.stages[0].tasks_in for ran in executor_runs] == [3, 2]


def test_a_declared_source_is_cut_also_behind_initial_tasks():
    assert shards_of(lambda: [DeclaredNumbers()], lambda: items(0), count=2) == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_what_an_asynchronous_source_stage_makes_is_cut():
    assert shards_of(lambda: [AskedNumbers(8), Double()]) == [[0, 6, 12], [2, 8, 14], [4, 10]]


def test_a_shard_without_tasks_returns_none():
    assert shards_of(lambda: [Double()], lambda: items(1), count=2) == [[2], []]


def test_a_stream_of_initial_tasks_is_cut():
    tasks = (Item("test", number) for number in range(7))
    streamed = Pipeline("p", stages=[Double()]).run_iter(local_executor(shard="1/3"), initial_tasks=tasks)
    assert sorted(task.data for task in streamed) == [2, 8]


def test_a_source_with_random_ids_is_refused():
    ran = run_local([DeclaredNumbers().with_(batch_size=2)], items(0, 1), raises=StageContractError, shard="0/2")
    assert "batch_size=1" in str(ran.error)


def test_each_shard_has_a_checkpoint_and_resumes(tmp_path):
    def run(k: int, **options):
        return run_local([Numbers(6, named=False), Stored(**options)], shard=f"{k}/2", checkpoint=tmp_path)

    run_local([Numbers(6), Stored(fails_at=3)], shard="1/2", checkpoint=tmp_path, raises=ValueError)
    assert run(0).data == [0, 2, 4]
    again = run(1)
    histories = [read_history(tmp_path / f"shard-{k}-of-2") for k in range(2)]
    assert [history.sources.done for history in histories] == [3, 3]
    assert [history.runs[-1].shard for history in histories] == ["0/2", "1/2"]
    assert 3 in again.data
    assert run(1).data == []
    with pytest.raises(CheckpointMismatch):
        run_local([Numbers(6), Stored()], shard="0/3", checkpoint=tmp_path)


def test_the_command_line(tmp_path: Path):
    program = tmp_path / "numbers_pipeline.py"
    program.write_text(
        "from gpuexec import Pipeline\nfrom tests.process.stages.sharded import Numbers, Stored\n"
        "def pipeline(): return Pipeline('numbers', stages=[Numbers(4), Stored()])\n"
    )
    target, folder = f"{program}:pipeline", tmp_path / "ck"
    done = run_command("run", target, "--shard", "1/2", "-o", f"checkpoint={folder}", "-o", f"run_dir={tmp_path}/runs")
    assert done.returncode == 0, done.stderr
    assert "2 tasks came out" in done.stderr
    [report] = (tmp_path / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["options"]["shard"] == "1/2"
    shown = run_command("report", next((tmp_path / "runs").iterdir()))
    assert ", shard 1/2," in shown.stdout.splitlines()[0]
    missing = run_command("history", str(folder))
    assert missing.returncode == 3
    assert "not begun: 0/2" in missing.stdout


def test_a_plan_says_what_is_cut(monkeypatch):
    monkeypatch.setenv("GPUEXEC_SHARD", "1/4")
    made = plan([Numbers(4), Double()], checkpoint="ck")
    assert made.to_dict()["shard"] == "1/4"
    assert "ck/shard-1-of-4" in str(made)
    assert "'numbers'" in str(made)
    assert plan([Double()], shard="0/1").shard == "0/1", "the option wins"
