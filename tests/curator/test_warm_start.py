"""Warm workers with torch and with NeMo Curator's stages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.running import run_local
from tests.process.stages import ApplyIn, items

SOURCE = """
import torch
{at_import}
from tests.process.stages import warm
def draw(folder):
    warm.meet(folder)
    return torch.initial_seed()
"""


@pytest.fixture
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Make a function that draws from torch's generator, in a module that does something when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(at_import: str) -> Any:
        (tmp_path / "draws_from_torch.py").write_text(SOURCE.format(at_import=at_import))
        import draws_from_torch

        return draws_from_torch.draw

    yield make
    sys.modules.pop("draws_from_torch", None)


@pytest.fixture
def meeting(tmp_path: Path) -> str:
    folder = tmp_path / "meeting"
    folder.mkdir()
    return str(folder)


def test_workers_draw_numbers_of_their_own_from_torch(drawing, meeting):
    ran = run_local([ApplyIn(2, drawing(""))], items(meeting, meeting))
    assert {worker.warm for worker in ran.report.workers} == {True}, ran.report.notes
    assert len(set(ran.data)) == 2


def test_a_module_that_seeds_torch(drawing, meeting):
    ran = run_local([ApplyIn(2, drawing("torch.manual_seed(7)"))], items(meeting, meeting))
    assert ran.data == [7, 7]
    assert "seeded torch" in ran.report.notes[-1]


def test_stages_of_curator_share_what_they_import():
    import pandas as pd
    from nemo_curator.stages.text.filters import ScoreFilter
    from nemo_curator.stages.text.filters.heuristic.string import WordCountFilter
    from nemo_curator.tasks import DocumentBatch

    stages = [ScoreFilter(WordCountFilter(min_words=n), text_field="text").with_(name=f"at_least_{n}") for n in (1, 2)]
    task = DocumentBatch(dataset_name="d", data=pd.DataFrame({"text": ["one two three", "one"]}))
    ran = run_local(stages, [task], fusion="off")
    assert [len(batch.data) for batch in ran.tasks] == [1]
    assert {worker.warm for worker in ran.report.workers} == {True}, ran.report.notes
    assert len(ran.report.templates) == 1
