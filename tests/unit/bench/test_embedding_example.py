"""The model of examples/bench_embedding.py: padding changes no embedding, and what is alike is found alike."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).parents[3] / "examples" / "bench_embedding.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("bench_embedding_example", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


def embedded(example: ModuleType, texts: list[str]) -> np.ndarray:
    tasks = [example.ParagraphTask("test", example.Paragraph(text)) for text in texts]
    tokenize = example.Tokenize()
    return example.encoder(on_gpu=False)(*example.padded([tokenize.process(task).data.tokens for task in tasks]))


def test_padding_changes_no_embedding(example: ModuleType):
    texts = ["a", "a list is sorted", "word " * 500, ""]
    together = embedded(example, texts)
    alone = np.concatenate([embedded(example, [text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_texts_that_share_words_are_alike(example: ModuleType):
    one, like, other = embedded(example, ["how is a list sorted", "a list is sorted", "import hooks of packages"])
    assert one @ like > one @ other + 0.2


def test_the_source_makes_as_many_paragraphs_as_it_is_told(example: ModuleType):
    assert len(example.ReadTopics(3000).process(None)) == 3000
