"""Pipelines of real stages: filters of texts, and the two examples of this project."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import toys

FILTERS = 28
DOCUMENT_BYTES = 2048
DOCUMENTS_PER_TASK = 50  # of NeMo Curator's DocumentBatch
_EXAMPLES = Path(__file__).parents[2] / "examples"
_SENTENCE = "The quick brown fox jumps over the lazy dog, and then it rests for an hour. "


def native_filters(count: int) -> tuple[list[Any], list[Any]]:
    """Return 28 light filters, and a task for each of ``count`` documents."""
    return [toys.Words(f"filter{i}", workers=None) for i in range(FILTERS)], toys.pieces(map(_document, range(count)))


def curator_filters(count: int) -> tuple[list[Any], list[Any]]:
    """Return 28 of NeMo Curator's ScoreFilter, and its tasks of 50 documents each."""
    import pandas as pd
    from nemo_curator.stages.text.filters import ScoreFilter
    from nemo_curator.stages.text.filters.heuristic import string
    from nemo_curator.tasks import DocumentBatch

    # Those that a plain pickle can carry, for the pools.
    names = ["NonAlphaNumeric", "Numbers", "Urls", "Bullets", "WhiteSpace", "Parentheses", "BoilerPlateString"]
    names += ["Ellipsis", "CommonEnglishWords", "PornographicUrls"]
    stages = []
    for i in range(FILTERS):
        name = names[i % len(names)] + "Filter"
        stages.append(ScoreFilter(filter_obj=getattr(string, name)(), text_field="text").with_(name=f"{name}{i}"))
    texts = [_document(i) for i in range(count)]
    tasks = [
        DocumentBatch(dataset_name="bench", data=pd.DataFrame({"text": texts[i : i + DOCUMENTS_PER_TASK]}))
        for i in range(0, count, DOCUMENTS_PER_TASK)
    ]
    return stages, tasks


def _document(number: int) -> str:
    text = f"Document {number}. " + _SENTENCE * (DOCUMENT_BYTES // len(_SENTENCE) + 1)
    return text[: DOCUMENT_BYTES - 1] + "."


def demo(count: int) -> tuple[list[Any], list[Any]]:
    """Return the stages of ``examples/curate_docs.py`` for ``count`` of this machine's files."""
    curate_docs = _example("curate_docs")
    return curate_docs.pipeline(str(_folder()), limit=count).stages, toys.pieces([None])


def curator_demo(count: int) -> tuple[list[Any], list[Any]]:
    """Return the stages of ``examples/curator_text.py`` for ``count`` of this machine's files."""
    curate_docs, curator_text = _example("curate_docs"), _example("curator_text")
    folder = _folder()
    paths = (path for root in (sys.base_prefix, "/usr/share/doc") for path in curate_docs.text_files(Path(root)))
    curator_text.write_input(islice(paths, count), folder / "input")
    pipeline = curator_text.text_pipeline(folder / "input", folder / "output")
    pipeline.build()
    return pipeline.stages, toys.pieces([None])


def _example(name: str) -> Any:
    if str(_EXAMPLES) not in sys.path:
        sys.path.insert(0, str(_EXAMPLES))
    return __import__(name)


def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="gpuexec-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
