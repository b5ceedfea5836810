"""Our deduplication beside NeMo Curator's: what of Curator's runs without a GPU gives the same, or takes our results.

Curator's modules import RAPIDS, which needs a GPU. Here they are imported with empty modules in its place, and only
code that does not use these is called.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.deduplication.id_generator import IdGeneratorBase
from nemo_curator.stages.text.deduplication.removal import TextDuplicatesRemovalStage
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.tasks import FileGroupTask

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.dedup import ExactDeduplication, FuzzyDeduplication
from gpuexec.dedup.bands import band_keys, bucket_name
from gpuexec.dedup.components import components
from gpuexec.dedup.minhash import MinHasher, permutations
from tests.curator.version import VERSION

INLINE = InlineExecutor(show_progress=False)
STAGES = "nemo_curator.stages.deduplication"
RAPIDS = {"cudf", "cudf_streaming", "cupy", "cuml", "pylibcudf", "pylibcugraph", "raft_dask", "rapidsmpf", "rmm"}


@pytest.fixture
def imported() -> Iterator[Callable[[str], Any]]:
    """Import a module of Curator's that imports RAPIDS, with nothing in its place."""
    before = set(sys.modules)

    class Absent:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name.partition(".")[0] not in RAPIDS:
                return None
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self, is_package=True)

        def create_module(self, spec: Any) -> Any:
            return MagicMock(__spec__=spec, __path__=[], __name__=spec.name)

        def exec_module(self, module: Any) -> None:
            pass

    finder = Absent()
    sys.meta_path.insert(0, finder)
    yield importlib.import_module
    sys.meta_path.remove(finder)
    for name in set(sys.modules) - before:
        if name.startswith("nemo_curator.stages") or name.partition(".")[0] in RAPIDS:
            del sys.modules[name]


def texts() -> list[str]:
    chance = random.Random(11)
    found: list[str] = []
    for _ in range(80):
        text = "".join(chance.choices("abcdefghijklm é€ ", k=400))
        found += [text] + [text[:at] + "?" + text[at:] for at in chance.sample(range(400), chance.randrange(3))]
    return found


def write_lines(path: Path, lines: list[str], **columns: Any) -> Path:
    rows = [{"text": text, **{name: made(row) for name, made in columns.items()}} for row, text in enumerate(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("bits", [32, 64])
def test_the_permutations_are_curators(imported, bits: int):
    gpu = imported(f"{STAGES}.fuzzy.minhash").GPUMinHash
    for seed in (0, 42):
        theirs = gpu.generate_seeds(None, 260, seed, bits)
        ours = permutations(260, seed, bits)
        assert np.array_equal(theirs[:, 0], ours[0])
        assert np.array_equal(theirs[:, 1], ours[1])


def test_the_defaults_are_curators(imported):
    def default(function: Any, name: str) -> Any:
        return inspect.signature(function).parameters[name].default

    theirs = imported(f"{STAGES}.fuzzy.workflow").FuzzyDeduplicationWorkflow.__init__
    ours = FuzzyDeduplication.__init__
    for name in ("seed", "char_ngrams", "num_bands", "minhashes_per_band"):
        assert default(ours, name) == default(theirs, name), name
    assert default(ours, "use_64bit_hash") == default(theirs, "use_64_bit_hash")
    if VERSION.startswith("1.3."):
        pytest.skip(f"NeMo Curator {VERSION} does not normalize texts")
    assert default(ours, "normalize_text") == default(theirs, "normalize_text")
    exact = imported(f"{STAGES}.exact.workflow").ExactDeduplicationWorkflow.__init__
    assert default(ExactDeduplication.__init__, "normalize_text") == default(exact, "normalize_text")


def test_the_bands_are_curators(imported):
    """The method stands in a class whose base is RAPIDS', so it is taken out of the source."""
    source = ast.parse(inspect.getsource(imported(f"{STAGES}.fuzzy.lsh.lsh")))
    (method,) = (
        node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name == "_generate_band_ranges"
    )
    method.decorator_list = []
    names: dict[str, Any] = {}
    exec(compile(ast.Module([method], []), "lsh.py", "exec"), names)
    signatures = MinHasher(260).signatures(texts()[:3])
    for band, indices in enumerate(names["_generate_band_ranges"](20, 13)):
        parts = [signature[indices].astype("<u4").tobytes() for signature in signatures]
        ours = [bytes(keys[band]) for keys in band_keys(signatures, 20)]
        assert ours == [hashlib.md5(part).digest() for part in parts]


def test_groups_are_those_of_curators_edges(imported, tmp_path: Path):
    """From the buckets on: Curator's own stage makes the edges, in the shape that its LSH stage writes."""
    lines = texts()
    keys = band_keys(MinHasher().signatures(lines), 20)
    buckets: dict[tuple[int, str], list[int]] = {}
    for document, bands in enumerate(keys):
        for band, key in enumerate(bands):
            buckets.setdefault((band, bucket_name(band, bytes(key), 5)), []).append(document)
    shared = {name: documents for (_, name), documents in buckets.items() if len(documents) > 1}
    path = tmp_path / "buckets.parquet"
    pq.write_table(pa.table({"_bucket_id": list(shared), "_curator_dedup_id": list(shared.values())}), path)
    task = FileGroupTask(dataset_name="d", data=[str(path)])
    edges_stage = imported(f"{STAGES}.fuzzy.buckets_to_edges").BucketsToEdgesStage
    (edges_file,) = edges_stage(str(tmp_path / "edges")).process(task).data
    edges = pd.read_parquet(edges_file).to_numpy(np.uint64)
    vertices, labels = components(lambda: [edges])

    result = FuzzyDeduplication(write_lines(tmp_path / "a.jsonl", lines), tmp_path / "out").run(INLINE)
    ours = pd.read_parquet(result.groups_folder)
    assert ours["_curator_dedup_id"].tolist() == vertices.tolist()
    assert ours["_duplicate_group_id"].tolist() == labels.tolist()
    assert result.removed > 20


def test_as_many_are_removed_as_curators_rule_says(imported, tmp_path: Path):
    stage = imported(f"{STAGES}.fuzzy.identify_duplicates").IdentifyDuplicatesStage
    result = FuzzyDeduplication(write_lines(tmp_path / "a.jsonl", texts()), tmp_path / "out").run(INLINE)
    rule = MagicMock(document_id_field="_curator_dedup_id", duplicate_group_field="_duplicate_group_id")
    theirs = stage._get_removal_ids(rule, pd.read_parquet(result.groups_folder))  # pandas has the methods of cuDF
    assert theirs["_curator_dedup_id"].tolist() == pd.read_parquet(result.ids)["_curator_dedup_id"].tolist()


@pytest.mark.parametrize("kind", [ExactDeduplication, FuzzyDeduplication])
def test_curators_removal_reads_our_lists(tmp_path: Path, kind: type):
    lines = ["same text " * 9] * 3 + ["another one", "short", "short"] + ["last"]
    data = write_lines(tmp_path / "a.jsonl", lines, key=lambda row: f"id-{9 - row}")
    result = kind(data, tmp_path / "out", id="key", remove=True).run(INLINE)
    stages = [
        JsonlReader(str(data)),
        TextDuplicatesRemovalStage(str(result.ids), id_field="key", duplicate_id_field="key"),
    ]
    (batch,) = Pipeline(name="removal", stages=stages).run(LocalExecutor(show_progress=False))
    kept = pd.read_json(result.kept / "a.jsonl", lines=True)
    assert batch.to_pandas()["key"].tolist() == kept["key"].tolist() == ["id-9", "id-6", "id-5", "id-3"]


def test_curators_id_generator_reads_our_numbers(tmp_path: Path):
    files = [write_lines(tmp_path / f"{name}.jsonl", ["a"] * count) for name, count in (("a", 3), ("b", 5))]
    result = ExactDeduplication(tmp_path / "*.jsonl", tmp_path / "out").run(INLINE)
    generator = IdGeneratorBase.from_disk(str(result.id_generator))
    assert generator.next_id == 8
    assert [list(generator.get_batch_range([str(path)], None)) for path in files] == [[0, 2], [3, 7]]


@pytest.mark.parametrize(
    ("module", "workflow", "arguments", "argument", "instead"),
    [
        (
            "exact.workflow",
            "ExactDeduplicationWorkflow",
            {"output_path": "o", "input_path": "i"},
            "executor",
            "ExactDed",
        ),
        (
            "fuzzy.workflow",
            "FuzzyDeduplicationWorkflow",
            {"cache_path": "c", "output_path": "o", "input_path": "i"},
            "executor",
            "FuzzyDed",
        ),
    ],
)
def test_curators_workflows_are_refused_with_ours(
    imported, module, workflow, arguments, argument, instead, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    made = getattr(imported(f"{STAGES}.{module}"), workflow)(**arguments)
    with pytest.raises(ConfigurationError, match=rf"gpuexec\.dedup\.{instead}"):
        made.run(**{argument: LocalExecutor()})
    assert list(tmp_path.iterdir()) == []
