"""Tasks whose class lives in a script: every worker is told of it once, and the tasks refer to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.process.running import ROOT, run_command, run_python

SCRIPT = """
import json, sys
from dataclasses import dataclass
from gpuexec import LocalExecutor, Pipeline, Task
from tests.process.stages import Apply, Item, fail

@dataclass(repr=False)
class Mine(Task[int]):
    unit: str = "m"

    @property
    def num_items(self):
        return 1

    def validate(self):
        return True

    def in_words(self):
        return f"{self.data} {self.unit}"

if __name__ == "__main__":
    functions = [abs, abs, {"fails": fail}.get(sys.argv[1], abs)]
    stages = [Apply(function, name).with_(num_workers=1) for function, name in zip(functions, "abc")]
    executor = LocalExecutor(show_progress=False)
    kind = Item if sys.argv[1] == "importable" else Mine
    try:
        tasks = Pipeline("p", stages=stages).run(executor, initial_tasks=[kind("d", -number) for number in range(50)])
    finally:
        print(json.dumps([stage.output_bytes for stage in executor.last_report.stages]))
    print(json.dumps([task.in_words() if kind is Mine else task.data for task in tasks]))
"""


def run(tmp_path: Path, how: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return run_python(script, how, PYTHONPATH=str(ROOT), XDG_STATE_HOME=str(tmp_path))


def test_tasks_of_a_scripts_class_take_little_more_than_others(tmp_path: Path):
    sizes, words = map(json.loads, run(tmp_path, "own").stdout.splitlines())
    others, _ = map(json.loads, run(tmp_path, "importable").stdout.splitlines())
    assert words == [f"{number} m" for number in range(50)]
    for size, other in zip(sizes, others, strict=True):
        assert size < other + 50 * 100, "the definition alone takes some 3,000 bytes"


def test_a_failed_batch_of_them_can_be_replayed(tmp_path: Path):
    failed = run(tmp_path, "fails")
    assert "ConnectionError: refused" in failed.stderr
    (capsule,) = (tmp_path / "gpuexec" / "capsules").iterdir()
    replayed = run_command("replay", capsule)
    assert "ConnectionError: refused\n" in replayed.stderr
    assert replayed.stderr.endswith("replay: the batch fails again\n")
    old = run_command("replay", capsule, "--old-code")
    assert old.stderr.endswith("replay: the batch fails again\n")


def test_a_class_that_cannot_be_sent_is_named_only_if_it_is_used(tmp_path: Path):
    script = tmp_path / "script.py"
    lock = "import threading\nclass Locked(Item):\n    lock = threading.Lock()\n"
    code = (
        "from gpuexec import LocalExecutor, Pipeline\n"
        "from tests.process.stages import Apply, Item, items\n"
        f"{lock}"
        "import sys\n"
        "tasks = [Locked('d', 1)] if sys.argv[1:] else items(1)\n"
        "if __name__ == '__main__':\n"
        "    print(len(Pipeline('p', stages=[Apply(abs)]).run(LocalExecutor(show_progress=False), tasks)))\n"
    )
    script.write_text(code)
    assert run_python(script, PYTHONPATH=str(ROOT)).stdout == "1\n"
    refused = run_python(script, "use it", PYTHONPATH=str(ROOT))
    assert "StageNotPicklable: initial task 0" in refused.stderr


def test_a_class_that_is_made_during_the_run_travels_with_its_tasks(tmp_path: Path):
    code = (
        "from gpuexec import LocalExecutor, Pipeline\n"
        "from tests.process.stages import Apply, Item\n"
        "def tasks():\n"
        "    for number in range(3):\n"
        "        class Late(Item):\n"
        "            at = number\n"
        "        globals()['Late'] = Late\n"
        "        yield Late('d', number)\n"
        "if __name__ == '__main__':\n"
        "    stages = [Apply(abs, 'a'), Apply(abs, 'b')]\n"
        "    run = Pipeline('p', stages=stages).run_iter(LocalExecutor(show_progress=False), tasks())\n"
        "    print(sorted(task.at for task in run))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[0, 1, 2]\n", done.stderr
