"""``task_seed``: another attempt, another run, an inline run and a replay draw the same random numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuexec import InlineExecutor, Pipeline
from tests.process.running import logged, run_command, run_local
from tests.process.stages import items
from tests.process.stages.seeds import Draws, DrawsTogether, RaisesWhatItDraws


def inline(stage: Any, count: int, seed: int | None) -> list[Any]:
    executor = InlineExecutor(task_seed=seed, show_progress=False)
    return [task.data for task in Pipeline("p", stages=[stage]).run(executor, items(*range(count)))]


@pytest.mark.parametrize(("stage_class", "batch_size"), [(Draws, 1), (Draws, 3), (DrawsTogether, 3)])
def test_another_attempt_in_another_process_draws_the_same_numbers(tmp_path: Path, stage_class: Any, batch_size: int):
    dies = stage_class(tmp_path, dies_at=4).with_(batch_size=batch_size, num_workers=1)
    ran = run_local([dies], items(*range(9)), task_seed=7)
    assert (tmp_path / "died").exists()
    assert ran.data == inline(stage_class().with_(batch_size=batch_size), 9, seed=7)
    assert ran.data != inline(stage_class().with_(batch_size=batch_size), 9, seed=8)
    assert len({numbers for _, _, *numbers in map(tuple, ran.data) for numbers in numbers}) == (
        2 * 9 if stage_class is Draws else 2 * 3
    ), "every seed of its own"


def test_the_batch_of_a_task_makes_no_difference_to_a_stage_that_takes_tasks_one_by_one():
    alone = inline(Draws(), 6, seed=0)
    assert inline(Draws().with_(batch_size=4), 6, seed=0) == alone
    assert run_local([Draws().with_(batch_size=6)], items(*range(6)), task_seed=0).data == alone


def test_workers_set_up_alike():
    ran = run_local([Draws().with_(num_workers=2)], items(*range(20)), task_seed=0)
    assert len({weight for _, weight, *_ in ran.data}) == 1


def test_without_the_option_nothing_is_seeded():
    first, second = (run_local([Draws(generators="random")], items(1)).data for _ in range(2))
    assert first != second


def test_an_inline_run_leaves_the_random_states_of_the_caller():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    inline(Draws(), 3, seed=0)
    assert (random.random(), np.random.random()) == expected


def test_a_replay_draws_what_the_run_drew(tmp_path: Path):
    ran = run_local([RaisesWhatItDraws()], items(1), raises=ArithmeticError, task_seed=5, capsule_dir=tmp_path)
    (capsule,) = tmp_path.iterdir()
    replayed = run_command("replay", capsule)
    assert replayed.returncode == 1
    assert f"ArithmeticError: {ran.error}\n" in replayed.stderr


def test_a_later_run_on_a_checkpoint_takes_the_seed_of_the_first(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    expected = inline(Draws(), 3, seed=9)
    assert run_local([Draws()], items(0), checkpoint=folder, task_seed=9).data == expected[:1]
    with logged() as messages:
        assert run_local([Draws()], items(0, 1, 2), checkpoint=folder).data == expected[1:]
    assert any("task_seed=9, as in the run before" in message for message in messages)
    with logged() as messages:
        run_local([Draws()], items(0, 1, 2, 3), checkpoint=folder, task_seed=10)
    assert any("task_seed is 10, and was 9" in message for message in messages)
