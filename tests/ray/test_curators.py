"""Pipelines of NeMo Curator: its own executor runs them, or gpuexec's rows do, with the same results.

Run by scripts/test-curator's environment: .venv-curator/bin/python -m pytest tests/ray/test_curators.py
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("nemo_curator") is None:
    pytest.skip("NeMo Curator is not installed here", allow_module_level=True)

from gpuexec import InlineExecutor, RayExecutor
from gpuexec.errors import ConfigurationError


def pipeline() -> Any:
    import pandas as pd
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.text.filters import ScoreFilter
    from nemo_curator.stages.text.filters.heuristic import WordCountFilter
    from nemo_curator.tasks import DocumentBatch

    texts = ["one", "two words", "three words here", "and four words here"]
    tasks = [DocumentBatch(dataset_name="d", data=pd.DataFrame({"text": texts[i:]})) for i in range(3)]
    stage = ScoreFilter(WordCountFilter(min_words=3), text_field="text", score_field="words")
    return Pipeline(name="p", stages=[stage]), tasks


def texts_of(tasks: Any) -> list[list[str]]:
    return sorted(list(task.data["text"]) for task in tasks)


@pytest.mark.parametrize("curator_executor", ["none", "ray_data"])
def test_both_ways_return_what_the_inline_executor_returns(
    cluster: Any, curator_executor: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    made, tasks = pipeline()
    expected = texts_of(made.run(InlineExecutor(run_dir=None, show_progress=False), initial_tasks=tasks))
    made, tasks = pipeline()
    executor = RayExecutor(curator_executor=curator_executor, run_dir=None, show_progress=False)
    assert texts_of(made.run(executor, initial_tasks=tasks)) == expected


def test_options_that_curators_executors_lack_are_refused():
    made, tasks = pipeline()
    with pytest.raises(ConfigurationError, match="'max_attempts': leave it out, or give curator_executor='none'"):
        made.run(RayExecutor(max_attempts=5), initial_tasks=tasks)
