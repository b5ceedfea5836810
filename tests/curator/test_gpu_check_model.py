"""The model of scripts/gpu-check, on the CPU: this machine's torch has no CUDA."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gpuexec import InlineExecutor, Pipeline


@pytest.fixture
def scores(monkeypatch):
    """Return a function that scores texts on the CPU, in batches of a size."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    stages = importlib.import_module("gpu_checks.model_stages")
    pieces = importlib.import_module("gpu_checks.stages").pieces

    def score(texts: list[str], batch_size: int) -> dict[str, float]:
        pipeline = Pipeline("p", stages=[stages.Scores(None, batch_size=batch_size)])
        executor = InlineExecutor(show_progress=False, run_dir=None)
        return dict(task.data for task in pipeline.run(executor, initial_tasks=pieces(*texts)))

    yield score
    for name in [name for name in sys.modules if name.partition(".")[0] == "gpu_checks"]:
        del sys.modules[name]


def test_the_model_tells_texts_apart_and_is_the_same_in_any_batch(scores):
    curation = importlib.import_module("gpu_checks.curation")
    compare = importlib.import_module("gpu_checks.compare")
    texts = curation.texts(300)
    assert len(set(texts)) == 300
    by_64, by_1 = scores(texts, 64), scores(texts, 1)
    kept = sum(score >= curation._THRESHOLD for score in by_64.values())
    assert 30 < kept < 270, "a threshold that keeps all or nothing would prove nothing"
    assert max(by_64.values()) - min(by_64.values()) > 100 * curation._TOLERANCE
    assert not compare.same_scores(by_64, by_1, curation._TOLERANCE)
