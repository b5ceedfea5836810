"""Pools of processes inside a stage of a script, with functions and classes of that script."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.process.running import run_python

SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from gpuexec import LocalExecutor, Pipeline, ProcessingStage
from tests.process.stages import Item, items

OFFSET = 10

class Pair:
    def __init__(self, x):
        self.x = x

def paired(x):
    return Pair(x + OFFSET)

def put(queue, pair):
    queue.put(pair)

class Pools(ProcessingStage[Item, Item]):
    name = "pools"

    def process(self, task):
        context = multiprocessing.get_context(task.data)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            pairs = list(pool.map(paired, range(3)))
            pairs += pool.map(lambda x: Pair(-x), [4])
        with context.Pool(1) as pool:
            pairs += pool.map(paired, [5])
        queue = context.Queue()
        process = context.Process(target=put, args=(queue, Pair(6)))
        process.start()
        pairs.append(queue.get())
        process.join()
        task.data = [pair.x for pair in pairs if type(pair) is Pair]
        return task

if __name__ == "__main__":
    executor = LocalExecutor(show_progress=False, batch_timeout_s=60, capsules=False)
    (task,) = Pipeline("p", stages=[Pools()]).run(executor, initial_tasks=items(sys.argv[1]))
    print(task.data)
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_a_pool_of_a_scripts_stage_uses_the_scripts_definitions(tmp_path: Path, start_method: str):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = run_python(script, start_method)
    assert done.stdout == "[10, 11, 12, -4, 15, 6]\n", done.stderr
