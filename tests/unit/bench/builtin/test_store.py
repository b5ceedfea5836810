"""Results are kept by machine, and read back as they were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuexec.bench.builtin import store
from gpuexec.bench.builtin.judge import judge
from gpuexec.bench.builtin.machine import key_of
from gpuexec.bench.builtin.model import Figure, MachineResult, read_machine_result, result_as_dict
from gpuexec.bench.builtin.view import result_lines
from gpuexec.errors import ConfigurationError

MACHINE: dict[str, Any] = {
    "hostname": "node-17",
    "cpu": "EPYC",
    "is_virtual": True,
    "usable_cpus": 2.0,
    "memory_bytes": 8 * 2**30,
    "gpus": [],
}
FIGURES = (
    Figure("transport.small", "small tasks", "tasks/s", "higher", (20_000.0, 21_000.0), conditions={"cpu": "EPYC"}),
    Figure("disk:/data.sync", "synced", "ms", "lower", (0.8, 0.9), doubts=("others took 1.5 of 2 CPUs meanwhile",)),
    Figure("gpu0.decode", "JPEGs decoded", "images/s", "higher", reason="torchvision cannot be imported"),
)
RESULT = MachineResult(1_796_000_000.0, 31.0, False, "0.1.0", MACHINE, FIGURES)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_a_result_is_read_back_as_it_was():
    assert read_machine_result(json.loads(json.dumps(result_as_dict(RESULT))), "file") == RESULT


def test_results_are_kept_by_machine_oldest_first():
    later = replace(RESULT, started_at=RESULT.started_at + 60)
    store.save(later)
    store.save(RESULT)
    store.save(replace(RESULT, machine={**MACHINE, "hostname": "another"}))
    assert store.earlier_results(MACHINE) == ([RESULT, later], [])


def test_a_machine_is_known_by_its_gpus_also_under_another_name():
    machine = {**MACHINE, "gpus": [{"uuid": "GPU-1"}]}
    assert key_of(machine) == key_of({**machine, "hostname": "3f2a8c"})
    assert key_of(MACHINE) != key_of({**MACHINE, "hostname": "3f2a8c"})


def test_only_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "_MOST_KEPT", 2)
    for minute in range(3):
        store.save(replace(RESULT, started_at=RESULT.started_at + 60 * minute))
    found, _ = store.earlier_results(MACHINE)
    assert [each.started_at - RESULT.started_at for each in found] == [60, 120]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is damaged"),
        ("[]", "holds no figures"),
        ('{"schema": "gpuexec-builtin", "version": 9, "gpuexec": "9.1"}', "gpuexec 9.1 or newer is needed"),
        ('{"schema": "gpuexec-builtin", "version": 1}', "is damaged: KeyError"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_spoils_nothing(text: str, words: str):
    path = store.save(RESULT)
    path.with_name("0.json").write_text(text)
    found, problems = store.earlier_results(MACHINE)
    assert found == [RESULT]
    assert words in problems[0]
    with pytest.raises(ConfigurationError, match=words.replace("[", r"\[")):
        store.load_result(path.with_name("0.json"))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_it_is_shown_whole_at_any_width(width: int):
    earlier = [replace(RESULT, figures=(replace(FIGURES[0], values=(40_000.0,)), *FIGURES[1:]))]
    lines = [*result_lines(RESULT, judge(RESULT, earlier), judge(RESULT, [RESULT]), width)]
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "a virtual machine" in text
    assert "JPEGs decoded: torchvision cannot be imported" in text
    assert "is worse (-49 % against 1 measurement, possibly by chance: measure again)" in text
    assert "no verdict on disk of /data: synced: others took 1.5 of 2 CPUs meanwhile" in text
