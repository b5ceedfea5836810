"""What waits between two phases: bounded in memory, beyond that on disk, and gone with the run."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import pytest

from gpuexec import ConfigurationError, ProcessingStage, SpillFailed
from gpuexec.channel import spill
from tests.nvml_sim import nodes
from tests.process.running import ROOT, ids_and_data, local_executor, logged, run_inline, run_local
from tests.process.stages import Apply, die, items, same
from tests.process.stages.spill import Makes, MakesAll, Measures
from tests.process.waiting import wait_until

KIB, MIB = 2**10, 2**20


@pytest.fixture
def folder(tmp_path: Path, nvml_node) -> Iterator[Path]:
    """The folder to spill to, on a node with one GPU. Nothing is left in it, nor held of it."""
    nvml_node(nodes.node(nodes.gpu(0)))
    folder = tmp_path / "spill"
    folder.mkdir()
    yield folder
    gc.collect()
    assert not list(folder.iterdir())
    assert not spilled_files(os.getpid(), folder)


def spilled_files(pid: int, folder: Path) -> dict[int, int]:
    """Return the bytes on disk of each file without a name in ``folder`` that a process holds."""
    found = {}
    with contextlib.suppress(OSError):  # the process has ended
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(fd.readlink()).startswith(str(folder)):
                    status = fd.stat()
                    found[status.st_ino] = status.st_blocks * 512
    return found


SIZES = {
    "small": [random.Random(1).randrange(2000) for _ in range(500)],
    "large": [random.Random(2).randrange(60 * KIB, 400 * KIB) for _ in range(60)],
    "mixed": [0, 1, 64 * KIB, 64 * KIB + 1, 5 * MIB, 7, 3 * MIB, 100 * KIB],
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("queue_bytes", [1, MIB])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("first", [Makes, MakesAll])
def test_results_are_those_of_one_process(folder, first, sizes, queue_bytes, batch_size):
    given = SIZES[sizes] if first is Makes else [SIZES[sizes]]
    stages: list[ProcessingStage] = [first(), Measures(folder).with_(batch_size=batch_size)]
    with logged("INFO") as messages:
        ran = run_local(stages, items(*given), queue_bytes=queue_bytes, spill_dir=folder)
    assert ids_and_data(ran.tasks) == ids_and_data(run_inline(stages, items(*given)))
    total = sum(SIZES[sizes])
    spilled = ran.report.stages[1].spilled_bytes
    assert spilled >= total - queue_bytes
    if queue_bytes > 1 and sizes != "mixed":
        assert spilled <= max(0, ran.report.stages[0].output_bytes - queue_bytes // 2), "what fits is kept in memory"
    told = [message for message in messages if "is written to" in message and str(folder) in message]
    assert len(told) == (1 if spilled else 0)


class Held:
    """The most that this process holds, while entered: memory (its own growth, and memory files) and spilled files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = self.on_disk = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._before = psutil.Process().memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.03):
            grown = psutil.Process().memory_info().rss - self._before
            self.memory = max(self.memory, grown + sum(spilled_files(os.getpid(), Path("/memfd:")).values()))
            self.on_disk = max(self.on_disk, sum(spilled_files(os.getpid(), self.folder).values()))


@pytest.mark.parametrize(("count", "size"), [(120, MIB), (2400, 50 * KIB)])
def test_memory_is_bounded(folder, count, size):
    with Held(folder) as held:
        ran = run_local([Makes(), Measures(folder)], items(*[size] * count), queue_bytes=6 * MIB, spill_dir=folder)
    assert {task.data[0] for task in ran.tasks} == {size}
    assert held.memory < 40 * MIB
    assert held.on_disk > 80 * MIB


@pytest.mark.parametrize(("count", "size"), [(240, MIB), (4800, 50 * KIB)])
def test_a_batch_that_makes_more_than_there_is_memory_for(folder, count, size):
    with Held(folder) as held:
        ran = run_local([MakesAll(), Measures(folder)], items([size] * count), queue_bytes=6 * MIB, spill_dir=folder)
    assert len(ran.tasks) == count
    assert held.memory < 130 * MIB  # a worker hands on 64 MiB at a time
    assert held.on_disk > 150 * MIB


def test_three_phases_with_full_queues_in_them_take_no_more_memory_than_two(folder):
    ahead = Apply(bytes, "ahead").with_(num_workers=1)  # on a CPU, so it runs ahead of the next stage
    passes = [Apply(same, name).with_(resources=Makes.resources) for name in ("first", "second")]
    stages = [ahead, *passes, Measures(folder)]
    with Held(folder) as held:
        ran = run_local(stages, items(*[MIB] * 200), queue_bytes=32 * MIB, spill_dir=folder)
    assert len(ran.tasks) == 200
    assert [stage.spilled_bytes > 150 * MIB for stage in ran.report.stages] == [False, False, True, True]
    assert held.memory < 130 * MIB


def test_space_is_freed_while_the_second_phase_goes_on(folder, monkeypatch):
    monkeypatch.setattr(spill, "_MIN_FILE_BYTES", 4 * MIB)
    results = local_executor(queue_bytes=1, spill_dir=folder).execute_iter(
        [Makes(), Measures(folder)], items(*[MIB] * 60)
    )
    held = [sum(spilled_files(os.getpid(), folder).values()) for _ in results]
    assert held[0] > 50 * MIB
    assert held[30] < 40 * MIB
    assert held[-1] < 10 * MIB
    assert not spilled_files(os.getpid(), folder)


def test_a_batch_is_tried_again_from_what_was_spilled(folder):
    sizes = SIZES["mixed"] + SIZES["small"][:20]
    stages = [Makes(), Measures(folder, ends=(7, 3 * MIB, SIZES["small"][3]))]
    ran = run_local(stages, items(*sizes), queue_bytes=1, spill_dir=folder)
    assert [data[0] for data in ran.data] == sizes
    assert len(ran.report.failures) == 3
    assert {failure.action for failure in ran.report.failures} == {"retry"}


def test_a_batch_that_keeps_failing_is_kept_for_replay(folder, tmp_path):
    stages = [Makes(), Apply(die, "dies").with_(resources=Makes.resources)]
    ran = run_local(
        stages,
        items(100 * KIB),
        queue_bytes=1,
        spill_dir=folder,
        on_task_failure="quarantine",
        max_attempts=1,
        capsule_dir=str(tmp_path / "capsules"),
    )
    capsule = ran.report.failures[-1].capsule
    assert sum(file.stat().st_size for file in Path(capsule).iterdir()) > 100 * KIB


# ---- a disk that is full, and folders that cannot be used ----------------------------------------------------


def test_a_full_disk_ends_the_run_and_a_checkpoint_keeps_what_was_finished(folder, tmp_path, monkeypatch):
    sizes, checkpoint = [MIB, 10, 100 * KIB] * 4, tmp_path / "checkpoint"
    stages = [Makes(), Measures(folder)]
    options = {"queue_bytes": 1, "spill_dir": folder, "checkpoint": checkpoint}
    first = run_local(stages, items(*sizes[:3]), **options)
    assert len(first.tasks) == 3
    really = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        space = really(fd)
        return os.statvfs_result((*space[:4], 5 * MIB // space.f_frsize, *space[5:]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", full)
        failed = run_local(stages, items(*sizes), raises=SpillFailed, **options)
    for part in (str(folder), "are to stay free", "spill_dir", "queue_bytes", "next phase"):
        assert part in str(failed.error)
    assert "SpillFailed" in failed.report.error
    assert [data[0] for data in run_local(stages, items(*sizes), **options).data] == sizes[3:]


REFUSED = """
import resource, sys
from gpuexec import LocalExecutor, Pipeline, SpillFailed
from tests.process.stages import items
from tests.process.stages.spill import Makes, Measures
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
executor = LocalExecutor(show_progress=False, queue_bytes=1, spill_dir=sys.argv[1])
try:
    Pipeline("p", stages=[Makes(), Measures(sys.argv[1])]).run(executor, initial_tasks=items(*[1 << 20] * 9))
except SpillFailed as error:
    print(error, executor.last_report.stages[1].spilled_bytes >> 20)
"""


def test_a_system_that_refuses_to_write_more(folder):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stdout, done.stderr
    assert "1.0 MiB more are wanted after 2.0 MiB" in done.stdout
    assert done.stdout.endswith(" 2\n")


@pytest.mark.parametrize("streams", [False, True])
def test_a_folder_that_cannot_be_used_is_refused_at_the_start(folder, streams):
    executor = local_executor(spill_dir=folder / "missing")
    stages = [Makes(), Measures(folder)]
    with pytest.raises(ConfigurationError, match=r"spill_dir='.*missing' cannot be used: it does not exist"):
        executor.execute_iter(stages, items(1)) if streams else executor.execute(stages, items(1))
    with pytest.raises(ConfigurationError, match="it does not exist"):
        executor.execute([Apply(same)], items(1))  # it would not be needed, but a mistake it is
    assert len(run_local(stages, items(1, 2)).tasks) == 2, "the GPU is free again"


def test_a_folder_in_memory_is_warned_of(nvml_node):
    nvml_node(nodes.node(nodes.gpu(0)))
    ran = run_local([Makes(), Apply(len, "length").with_(resources=Makes.resources)], items(9), spill_dir="/dev/shm")
    assert ran.data == [9]
    assert any("/dev/shm, which is in memory too (tmpfs)" in note for note in ran.report.notes)


# ---- a run that ends early -----------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.stages.spill import Makes, Measures
folder = Path(sys.argv[1])
executor = LocalExecutor(show_progress=False, queue_bytes=1, spill_dir=folder)
Pipeline("p", stages=[Makes(), Measures(folder)]).run(executor, initial_tasks=items(13, *[1 << 20] * 9))
"""


@pytest.fixture
def driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that hangs in its second phase, with all the rest on disk."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder)], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_however_the_driver_ends(driver, folder, number):
    wait_until(folder.with_name("hangs").exists, running=driver)
    assert sum(spilled_files(driver.pid, folder).values()) > 8 * MIB
    family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    assert not list(folder.iterdir())
    driver.send_signal(number)
    driver.wait()
    wait_until(lambda: not any(process.is_running() for process in family))
    assert not list(folder.iterdir())
    assert not any(spilled_files(pid, folder) for pid in psutil.pids() if _may_read(pid))


def _may_read(pid: int) -> bool:
    return os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK)


# ---- a host that is short of memory --------------------------------------------------------------------------


def test_while_memory_is_short_everything_is_spilled(folder):
    sizes = SIZES["mixed"]
    ran = run_local([Makes(), Measures(folder)], items(*sizes), spill_dir=folder, memory_high_watermark=0.0)
    assert [data[0] for data in ran.data] == sizes
    assert ran.report.stages[1].spilled_bytes >= sum(sizes)
    assert not any("pausing intake" in note for note in ran.report.notes), "each phase has one stage: nothing is held"
