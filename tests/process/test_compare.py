"""Real runs compared: a stage made slower is named, equal runs are not told apart, and doubtful ones are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpuexec.report.store import find_run, load_report
from tests.nvml_sim import nodes
from tests.process.running import run_command, run_local
from tests.process.stages import ApplyIn, double, fail, items
from tests.process.stages.compared import nap, nap_twice
from tests.process.stages.gpus import OnGpu

COUNT = 20


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    """A state folder of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def a_run(function: Any = nap, name: str = "naps", **options: Any) -> str:
    """Run two stages, one worker each; return the run's id."""
    stages = [ApplyIn(1, double, "light").with_(fuse=False), ApplyIn(1, function, name).with_(fuse=False)]
    return run_local(stages, items(*range(COUNT)), **options).report.facts.run_id


def compared(*arguments: str) -> dict[str, Any]:
    done = run_command("compare", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["comparisons"]
    return found


@pytest.mark.exhaustive
def test_a_stage_made_slower_is_the_change_and_the_effect(tmp_path):
    fast = [a_run() for _ in range(3)]
    slow = [a_run(nap_twice, queue_tasks=64) for _ in range(3)]
    found = compared(",".join(fast), ",".join(slow))
    assert found["verdict"]["kind"] == "shown"
    assert [stage["name"] for stage in found["verdict"]["stages"]] == ["naps"]
    assert 1.5 < found["verdict"]["stages"][0]["ratio"] < 2.5
    assert [change["text"] for change in found["changes"]] == ["option queue_tasks: default → 64"]
    assert compared(*[run for pair in zip(fast, slow, strict=True) for run in pair])["figures"] == found["figures"]
    page = tmp_path / "page.html"
    done = run_command("compare", ",".join(fast), ",".join(slow), "--html", page, COLUMNS="80")
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last line is where the page is
    assert "`naps` takes" in " ".join(done.stdout.split())
    assert "<code>naps</code> takes" in page.read_text()


def test_equal_runs_show_no_difference():
    first, second = a_run(), a_run()
    found = compared(first, second)
    assert found["changes"] == found["refusals"] == []
    assert found["verdict"]["kind"] != "shown"


def test_a_run_does_not_differ_from_its_like(tmp_path):
    run_id = a_run()
    like = tmp_path / "like" / "report.json"
    like.parent.mkdir()
    like.write_text(find_run(run_id).report_file.read_text().replace(run_id, "abcdef"))
    found = compared(run_id, str(like.parent))
    figures = [figure["finding"] for stage in found["stages"] for figure in stage["figures"]]
    assert set(figures) == {"none"}
    assert found["verdict"]["stages"] == []


def test_a_run_beside_another_tenant_is_not_judged(nvml_node):
    tenant = [{"pid": 1, "used_bytes": nodes.GIB, "kind": "graphics"}]
    runs = []
    for processes in ([], tenant):
        nvml_node(nodes.node(nodes.gpu(0, processes=processes)))
        ran = run_local([OnGpu(workers=1, gpu_memory_gb=2)], items(1, 2))
        runs.append(ran.report.facts.run_id)
    found = compared(*runs)
    assert found["verdict"]["kind"] == "refused"
    assert any("pid 1" in reason for reason in found["refusals"]), found["refusals"]


def test_a_failed_run_is_not_judged():
    failed = run_local(
        [ApplyIn(1, double, "light"), ApplyIn(1, fail, "naps")], items(1), raises=ConnectionError
    ).report.facts.run_id
    found = compared(a_run(), failed)
    assert found["verdict"]["kind"] == "refused"
    assert found["refusals"][0].startswith(f"run {failed} failed")


def test_what_cannot_be_compared(state, tmp_path):
    run = a_run()
    (folder,) = (state / "gpuexec" / "runs").iterdir()
    newer, damaged = tmp_path / "newer.json", tmp_path / "damaged.json"
    newer.write_text(json.dumps(load_report(folder) | {"schema": "gpuexec-report/9", "gpuexec": "9.0"}))
    damaged.write_text('{"schema": "gpuexec-rep')
    for arguments, why in (
        ([run], "two runs or more"),
        ([run, str(folder)], "named twice"),
        ([run, "nothing"], "there is no run 'nothing'"),
        ([run, f"{run},"], "names no run"),
        ([run, newer], "gpuexec 9.0 or newer is needed"),
        ([run, damaged], "damaged"),
    ):
        done = run_command("compare", *arguments)
        assert done.returncode == 1
        assert why in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_page_that_cannot_be_written():
    done = run_command("compare", a_run(), a_run(), "--html", "/proc/self/none/page.html")
    assert done.returncode == 1
    assert "--html /proc/self/none/page.html cannot be written" in done.stderr
