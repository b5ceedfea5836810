"""The stages of the runs whose reports the documentation shows do what the documentation says."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gpuexec import InlineExecutor


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch):
    """A function that runs some tasks of a pipeline in this process and returns what they have become."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))

    def run(name: str, count: int) -> list[Any]:
        chosen = import_module(f"pictured_runs.{name}")
        executor = InlineExecutor(show_progress=False, run_dir=None)
        return [task.data for task in chosen.pipeline().run(executor, initial_tasks=chosen.initial_tasks(count))]

    return run


def test_archives_are_unpacked_and_counted(results):
    digests, counts = zip(*results("unpack", 13), strict=True)
    different = len(set(digests))
    assert 1 < different <= 12
    assert digests == (digests[:different] * 13)[:13], "the same archives come again, in their order"
    assert all(count[b"def"] for count in counts)


def test_pages_are_parsed(results):
    assert results("parse", 3) == ['{"words": 36000, "plain": true}'] * 3


def test_pictures_are_decoded_and_captioned(results, nvml_node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    node = nvml_node(import_module("pictured_runs.caption").NODE)
    assert results("caption", 2) == [len("416,000 pixels")] * 2
    assert [gpu["processes"] for gpu in node.read()["gpus"]] == [[], []], "the worker has given its memory back"
