"""What a large stage costs in the driver and in its workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from gpuexec.channel.payload import SegmentRef
from gpuexec.executors import local_run
from tests.process.running import ROOT, run_local
from tests.process.stages import Apply, items, same
from tests.process.stages.large import Index, LooksUp

SIZE = 60_000_000


def test_a_large_stage_is_pickled_once_and_each_worker_holds_it_once(monkeypatch):
    monkeypatch.setattr(Index, "pickled", 0)
    ran = run_local([LooksUp(SIZE, workers=3)], items(*range(6)))
    assert {total for _, total in ran.data} == {10}
    assert max(peak for peak, _ in ran.data) < 2 * SIZE + 100_000_000
    assert Index.pickled == 1


def test_the_payload_of_a_large_stage_lies_in_one_segment_that_no_worker_reuses():
    payload, modules = local_run._pickled(LooksUp(SIZE, workers=1), "looks_up")
    assert isinstance(payload, SegmentRef)
    assert not payload.exclusive
    assert LooksUp.__module__ in modules
    assert isinstance(local_run._pickled(Apply(same), "same")[0], bytes)


@pytest.mark.parametrize("defined_in", ["module", "script"])
def test_the_driver_does_not_grow_with_the_number_of_workers(tmp_path, defined_in):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import pathlib
        from tests.process.running import run_local
        from tests.process.stages import items
        from tests.process.stages.large import LooksUp, resident_peak_bytes

        class InScript(LooksUp):
            pass

        if __name__ == "__main__":
            stage = (InScript if {defined_in!r} == "script" else LooksUp)({SIZE}, 4)
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            before = resident_peak_bytes()
            run_local([stage], items(*range(8)))
            print("GROWN", resident_peak_bytes() - before)
        """)
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = re.search(r"GROWN (\d+)", ran.stdout)
    assert found, ran.stderr
    assert int(found[1]) < SIZE
