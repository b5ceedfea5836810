"""A whole deduplication, in this process: what it finds, what it writes, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.dedup import (
    DedupResult,
    DuplicateIds,
    ExactDeduplication,
    FuzzyDeduplication,
    OutputInUse,
    OutputNotWritten,
    UnreadableInput,
)
from gpuexec.dedup import stages as stages_module
from gpuexec.dedup.settings import Method, Settings, keys_maker
from gpuexec.dedup.workplace import locked
from tests.unit.dedup.scalar import groups

INLINE = InlineExecutor(show_progress=False)


def corpus(seed: int = 0, count: int = 60) -> list[str | None]:
    """Texts, of which some are copies, nearly copies, empty, short, or none."""
    chance = random.Random(seed)
    found: list[str | None] = ["", None, "", "short", "short", "ünïcödé 😀 " * 9, None]
    while len(found) < count:
        text = "".join(chance.choices("abcdefghij  ", k=chance.randint(30, 300)))
        found.append(text)
        if chance.random() < 0.3:
            found.append(text)
        if chance.random() < 0.3:
            at = chance.randrange(len(text))
            found.append(text[:at] + "!" + text[at:])
    chance.shuffle(found)
    return found


def write_jsonl(path: Path, texts: list[Any], **columns: list[Any]) -> Path:
    rows = [{"text": text, **{name: values[row] for name, values in columns.items()}} for row, text in enumerate(texts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def spread(folder: Path, texts: list[Any], files: int = 3) -> Path:
    """Write texts to files, so that sorted paths have them in order."""
    size = -(-len(texts) // files)
    for number in range(files):
        part = texts[number * size : (number + 1) * size]
        if number % 2:
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.table({"text": pa.array(part, pa.string())})
            pq.write_table(table, folder / f"{number}.parquet", row_group_size=5)
        else:
            write_jsonl(folder / f"{number}.jsonl", part)
    return folder


def groups_in(result: DedupResult) -> set[frozenset[Any]]:
    frame = pd.read_parquet(result.groups_folder)
    key, group = frame.columns
    return {frozenset(part[key]) for _, part in frame.groupby(group)}


def removed(result: DedupResult) -> list[Any]:
    frame = pd.read_parquet(result.ids)
    return frame[frame.columns[0]].tolist()


def expected_groups(texts: list[str | None], method: Method) -> set[frozenset[int]]:
    keys = keys_maker(Settings(method, "text", None, False, True, False))(texts)
    return groups([[bytes(key) for key in keys_of_text] for keys_of_text in keys])


# ---- what is found -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", [ExactDeduplication, FuzzyDeduplication])
def test_groups_are_those_of_comparing_each_pair(tmp_path: Path, seed: int, kind: type):
    texts = corpus(seed)
    result = kind(spread(tmp_path / "in", texts), tmp_path / "out").run(INLINE)
    expected = expected_groups(texts, Method(fuzzy=kind is FuzzyDeduplication))
    assert groups_in(result) == expected
    assert result.documents == len(texts)
    assert result.without_text == sum(not text for text in texts)
    assert result.groups == len(expected)
    assert removed(result) == sorted(number for group in expected for number in group - {min(group)})
    assert result.removed == len(removed(result))


@pytest.mark.parametrize(
    "options",
    [
        {"block_bytes": 1024},
        {"partitions": 7},
        {"memory_bytes": 1 << 20, "block_bytes": 2000, "partitions": 1},
    ],
)
def test_cutting_does_not_change_the_result(tmp_path: Path, options: dict[str, int]):
    data = spread(tmp_path / "in", corpus(5))
    plain = FuzzyDeduplication(data, tmp_path / "plain", num_bands=6, minhashes_per_band=4).run(INLINE)
    cut = FuzzyDeduplication(data, tmp_path / "cut", num_bands=6, minhashes_per_band=4, **options).run(INLINE)
    assert groups_in(cut) == groups_in(plain)
    assert removed(cut) == removed(plain)


def test_the_other_documents_are_written(tmp_path: Path):
    texts = ["a", "b", "a", "c", "b", "a"]
    data = write_jsonl(tmp_path / "in" / "deep" / "x.jsonl", texts).parent.parent
    write_jsonl(data / "y.jsonl", ["c", "d"])
    result = ExactDeduplication(data, tmp_path / "out", remove=True).run(INLINE)
    kept = {path.relative_to(result.kept): path.read_text() for path in sorted(result.kept.rglob("*.jsonl"))}
    assert kept == {
        Path("deep/x.jsonl"): '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n',
        Path("y.jsonl"): '{"text": "d"}\n',
    }


@pytest.mark.parametrize(("ids", "kind"), [(["x", "z", "y", "w"], pa.string()), ([30, -2, 5, 7], pa.int64())])
def test_ids_of_a_column(tmp_path: Path, ids: list[Any], kind: pa.DataType):
    data = write_jsonl(tmp_path / "a.jsonl", ["same", "same", "same", "other"], name=ids)
    result = ExactDeduplication(data, tmp_path / "out", id="name").run(INLINE)
    table = pq.read_table(result.ids)
    assert table.schema.field("name").type == kind
    assert table["name"].to_pylist() == sorted(ids[1:3])  # within a file they are sorted, as readers filter by range
    assert groups_in(result) == {frozenset(ids[:3])}
    assert result.id_generator is None


def test_names_are_those_of_curator(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["same", "same"])
    exact = ExactDeduplication(data, tmp_path / "exact").run(INLINE)
    fuzzy = FuzzyDeduplication(data, tmp_path / "fuzzy").run(INLINE)
    assert [exact.ids.name, fuzzy.ids.name] == ["ExactDuplicateIds", "FuzzyDuplicateIds"]
    assert pd.read_parquet(exact.groups_folder).columns.tolist() == ["_curator_dedup_id", "_exact_duplicate_group"]
    assert pd.read_parquet(fuzzy.groups_folder).columns.tolist() == ["_curator_dedup_id", "_duplicate_group_id"]
    assert pd.read_parquet(fuzzy.ids).columns.tolist() == ["_curator_dedup_id"]


def test_texts_are_compared_in_lower_case_if_asked(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["Same  TEXT\n", "same text", "other"])
    assert ExactDeduplication(data, tmp_path / "1").run(INLINE).removed == 0
    assert ExactDeduplication(data, tmp_path / "2", normalize_text=True).run(INLINE).removed == 1
    assert FuzzyDeduplication(data, tmp_path / "3", normalize_text=True).run(INLINE).removed == 1


@pytest.mark.parametrize("kind", [ExactDeduplication, FuzzyDeduplication])
def test_documents_without_text_may_all_stay(tmp_path: Path, kind: type):
    data = write_jsonl(tmp_path / "a.jsonl", ["", None, "", None, "x", "x"])
    assert groups_in(kind(data, tmp_path / "1", group_empty=False).run(INLINE)) == {frozenset({4, 5})}
    with_empty = groups_in(kind(data, tmp_path / "2").run(INLINE))
    if kind is ExactDeduplication:
        assert with_empty == {frozenset({0, 1, 2, 3}), frozenset({4, 5})}
    else:  # no text has no signature, an empty one has zeros
        assert with_empty == {frozenset({0, 2}), frozenset({1, 3}), frozenset({4, 5})}


@pytest.mark.parametrize("kind", [ExactDeduplication, FuzzyDeduplication])
def test_no_documents_at_all(tmp_path: Path, kind: type):
    (tmp_path / "a.jsonl").touch()
    result = kind(tmp_path / "a.jsonl", tmp_path / "out", remove=True).run(INLINE)
    assert (result.documents, result.groups, result.removed) == (0, 0, 0)
    assert removed(result) == []
    assert (result.kept / "a.jsonl").read_bytes() == b""


def test_a_gigantic_document(tmp_path: Path):
    long = "".join(random.Random(1).choices("abcdefgh ", k=1_500_000))
    data = write_jsonl(tmp_path / "a.jsonl", [long, "x", long[:700_000] + "?" + long[700_000:]])
    result = FuzzyDeduplication(data, tmp_path / "out", num_bands=3, minhashes_per_band=2).run(INLINE)
    assert groups_in(result) == {frozenset({0, 2})}


def test_the_id_generator_says_which_numbers_a_file_has(tmp_path: Path):
    first, second = (write_jsonl(tmp_path / name, ["a"] * count) for name, count in (("a.jsonl", 3), ("b.jsonl", 2)))
    result = ExactDeduplication([first, second], tmp_path / "out", block_bytes=1024).run(INLINE)
    noted = json.loads(result.id_generator.read_text())
    assert noted["next_id"] == 5
    assert list(noted["batch_registry"].values()) == [[0, 2], [3, 4]]


def test_the_result_reads_well(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["same", "same", ""])
    result = ExactDeduplication(data, tmp_path / "out").run(INLINE)
    lines = str(dataclasses.replace(result, seconds={"hash": 1.25})).splitlines()
    assert lines[:2] == ["3 documents, 1 of them without text", "1 group of duplicates, 1 document to remove, 2 stay"]
    assert lines[-1] == "time:          hash 1.2 s"


# ---- interruptions -------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = spread(tmp_path / "in", corpus(3))
    expected = groups_in(FuzzyDeduplication(data, tmp_path / "whole").run(INLINE))
    job = FuzzyDeduplication(data, tmp_path / "out", remove=True)
    for cls, name in (
        (stages_module.HashDocuments, "hash"),
        (stages_module.FindDuplicates, "find"),
        (stages_module.ListDuplicates, "list"),
        (stages_module.RemoveDuplicates, "remove"),
    ):
        with monkeypatch.context() as patch:
            _raise_at_second_task(patch, cls, name)
            with pytest.raises(KeyboardInterrupt, match=name):
                job.run(INLINE)
    counted: list[Any] = []
    original = stages_module.HashDocuments.process
    monkeypatch.setattr(
        stages_module.HashDocuments, "process", lambda self, task: counted.append(task) or original(self, task)
    )
    result = job.run(INLINE)
    assert result.resumed
    assert counted == []
    assert groups_in(result) == expected
    assert not (tmp_path / "out" / "work").exists()
    again = job.run(INLINE)
    assert again.seconds == {}
    assert "all was done before" in str(again)
    assert groups_in(again) == expected


def _raise_at_second_task(patch: pytest.MonkeyPatch, cls: Any, name: str) -> None:
    original, calls = cls.process, []

    def process(self: Any, task: Any) -> Any:
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt(name)
        return original(self, task)

    patch.setattr(cls, "process", process)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"text": "body"}, "text was 'text' and is 'body'"),
        ({"seed": 1}, "seed was 42 and is 1"),
        ({"remove": True}, "remove was False and is True"),
    ],
)
def test_results_of_other_settings_are_not_mixed(tmp_path: Path, change: dict[str, Any], difference: str):
    data = write_jsonl(tmp_path / "a.jsonl", ["a", "a"], body=["b", "c"])
    FuzzyDeduplication(data, tmp_path / "out").run(INLINE)
    with pytest.raises(OutputInUse, match=difference):
        FuzzyDeduplication(data, tmp_path / "out", **change).run(INLINE)
    changed = FuzzyDeduplication(data, tmp_path / "out", overwrite=True, **change).run(INLINE)
    assert changed.removed == (0 if "text" in change else 1)


def test_results_of_other_documents_are_not_mixed(tmp_path: Path):
    data = write_jsonl(tmp_path / "in" / "a.jsonl", ["a", "a"]).parent
    ExactDeduplication(data, tmp_path / "out").run(INLINE)
    write_jsonl(data / "b.jsonl", ["a"])
    with pytest.raises(OutputInUse, match=r"b\.jsonl is not read then"):
        ExactDeduplication(data, tmp_path / "out").run(INLINE)
    (data / "b.jsonl").unlink()
    write_jsonl(data / "a.jsonl", ["a", "b", "c"])
    with pytest.raises(OutputInUse, match=r"a\.jsonl was changed since"):
        ExactDeduplication(data, tmp_path / "out").run(INLINE)
    assert ExactDeduplication(data, tmp_path / "out", overwrite=True).run(INLINE).documents == 3


def test_a_run_that_got_nowhere_may_begin_with_other_settings(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a", "a"])
    with pytest.raises(UnreadableInput, match="no column 'body'"):
        ExactDeduplication(data, tmp_path / "out", text="body").run(INLINE)
    assert removed(ExactDeduplication(data, tmp_path / "out").run(INLINE)) == [1]


def test_a_file_that_could_not_be_read_at_all_may_be_mended(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="cannot be read as Parquet"):
        ExactDeduplication(tmp_path / "a.parquet", tmp_path / "out").run(INLINE)
    pq.write_table(pa.table({"text": ["a", "a"]}), tmp_path / "a.parquet")
    assert removed(ExactDeduplication(tmp_path / "a.parquet", tmp_path / "out").run(INLINE)) == [1]


def test_files_of_a_killed_run_do_not_stay(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a", "a"])
    job = ExactDeduplication(data, tmp_path / "out", remove=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module.RemoveDuplicates, "process", _raise)
        with pytest.raises(KeyboardInterrupt):
            job.run(INLINE)
    for folder in ("ExactDuplicateIds", "groups", "documents"):
        (tmp_path / "out" / folder).mkdir(exist_ok=True)
        (tmp_path / "out" / folder / "x.parquet.123.part").touch()
    job.run(INLINE)
    assert list((tmp_path / "out").rglob("*.part")) == []
    (tmp_path / "out" / "work").mkdir()  # killed between the last note and the removal of this folder
    job.run(INLINE)
    assert not (tmp_path / "out" / "work").exists()


def _raise(*_: Any) -> None:
    raise KeyboardInterrupt


def test_results_that_were_removed_are_made_again(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a", "a"])
    job = ExactDeduplication(data, tmp_path / "out", remove=True)
    result = job.run(INLINE)
    for folder in (result.ids, result.kept):
        shutil.rmtree(folder)
        again = job.run(INLINE)
        assert not again.resumed
        assert removed(again) == [1]
        assert (again.kept / "a.jsonl").exists()


def test_what_others_have_in_the_output_folder_is_left_alone(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a", "a"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    ExactDeduplication(data, tmp_path / "out").run(INLINE)
    ExactDeduplication(data, tmp_path / "out", overwrite=True, remove=True).run(INLINE)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "other" / "documents").mkdir(parents=True)
    with pytest.raises(OutputInUse, match="no deduplication of ours wrote it"):
        ExactDeduplication(data, tmp_path / "other").run(INLINE)


def test_one_process_at_a_time_writes_to_a_folder(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a"])
    with locked(tmp_path / "out"), pytest.raises(OutputInUse, match="another process"):
        ExactDeduplication(data, tmp_path / "out").run(INLINE)


# ---- what goes wrong -----------------------------------------------------------------------------------


def test_an_unreadable_file_ends_the_run_and_the_next_one_goes_on(tmp_path: Path):
    data = spread(tmp_path / "in", corpus(1))
    good = (data / "2.jsonl").read_text()
    (data / "2.jsonl").write_text(good + "{damaged")
    with pytest.raises(UnreadableInput, match=r"2\.jsonl: the line at byte"):
        ExactDeduplication(data, tmp_path / "out").run(INLINE)
    assert list((tmp_path / "out" / "work" / "keys").glob("*.part")) == []
    (data / "2.jsonl").write_text(good)
    with pytest.raises(OutputInUse, match="was changed since"):
        ExactDeduplication(data, tmp_path / "out").run(INLINE)


@pytest.mark.parametrize(("first", "second"), [(["a", "b"], ["c", "a"]), (["a", "a"], ["b", "c"])])
def test_the_same_id_twice_is_refused(tmp_path: Path, first: list[str], second: list[str]):
    write_jsonl(tmp_path / "in" / "1.jsonl", ["one", "two"], key=first)
    write_jsonl(tmp_path / "in" / "2.jsonl", ["three", "four"], key=second)
    for _ in range(2):  # also when it goes on
        with pytest.raises(DuplicateIds, match=r"document 1 of .*1\.jsonl and document 2 of .* have the same id"):
            ExactDeduplication(tmp_path / "in", tmp_path / "out", id="key").run(INLINE)


def test_an_id_that_is_no_unicode_is_refused(tmp_path: Path):
    write_jsonl(tmp_path / "a.jsonl", ["one"], key=["\ud800"])
    with pytest.raises(UnreadableInput, match=r"a\.jsonl: ids in column 'key'"):
        ExactDeduplication(tmp_path / "a.jsonl", tmp_path / "out", id="key").run(INLINE)


@pytest.mark.parametrize("row_groups", [0, 1, 2])
def test_files_without_documents_may_have_an_id_column(tmp_path: Path, row_groups: int):
    empty = pa.table({"text": pa.array([], pa.string()), "key": pa.array([], pa.int64())})
    (tmp_path / "in").mkdir()
    with pq.ParquetWriter(tmp_path / "in" / "a.parquet", empty.schema) as writer:
        for _ in range(row_groups):
            writer.write_table(empty)
    (tmp_path / "in" / "b.jsonl").touch()
    result = ExactDeduplication(tmp_path / "in", tmp_path / "out", id="key", remove=True).run(INLINE)
    assert (result.documents, removed(result)) == (0, [])


def test_two_files_are_never_written_to_one(tmp_path: Path):
    write_jsonl(tmp_path / "in" / "a.jsonl", ["x" * 600] * 3)
    write_jsonl(tmp_path / "in" / "a.part-000000.jsonl", ["other"])
    with pytest.raises(ConfigurationError, match=r"would go to the same file .*a\.part-000000\.jsonl"):
        ExactDeduplication(tmp_path / "in", tmp_path / "out", remove=True, block_bytes=1024).run(INLINE)
    assert ExactDeduplication(tmp_path / "in", tmp_path / "out", remove=True).run(INLINE).removed == 2


def test_ids_of_two_types_are_refused(tmp_path: Path):
    write_jsonl(tmp_path / "in" / "1.jsonl", ["one"], key=[1])
    write_jsonl(tmp_path / "in" / "2.jsonl", ["two"], key=["b"])
    with pytest.raises(Exception, match="texts in some files and whole numbers in others"):
        ExactDeduplication(tmp_path / "in", tmp_path / "out", id="key").run(INLINE)
    write_jsonl(tmp_path / "mixed.jsonl", ["one", "two"], key=[1, "b"])
    with pytest.raises(
        UnreadableInput, match=r"mixed\.jsonl: ids in column 'key' must be all texts, or all whole numbers"
    ):
        ExactDeduplication(tmp_path / "mixed.jsonl", tmp_path / "out2", id="key").run(INLINE)


def test_a_full_disk_is_named_and_the_next_run_goes_on(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", [f"text {number}" for number in range(3000)])
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    executor = InlineExecutor(show_progress=False, run_dir=None)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(OutputNotWritten, match=r"keys cannot be written: File too large"):
            ExactDeduplication(data, tmp_path / "out").run(executor)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list((tmp_path / "out").rglob("*.part")) == []
    assert ExactDeduplication(data, tmp_path / "out").run(executor).documents == 3000


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a"])
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritten, match="the output folder"):
        ExactDeduplication(data, tmp_path / "file" / "out").run(INLINE)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"memory_bytes": 10}, "memory_bytes must be a whole number of at least 1,048,576, got 10"),
        ({"block_bytes": True}, "block_bytes must be"),
        ({"partitions": 0}, "partitions must be"),
        ({"char_ngrams": 1}, "char_ngrams must be a whole number of at least 2"),
        ({"num_bands": 2.5}, "num_bands must be"),
        ({"id": "text"}, "the same column"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, options: dict[str, Any], problem: str):
    with pytest.raises(ConfigurationError, match=problem):
        FuzzyDeduplication(tmp_path, tmp_path / "out", **options)


def test_an_executor_with_a_checkpoint_is_refused(tmp_path: Path):
    data = write_jsonl(tmp_path / "a.jsonl", ["a"])
    with pytest.raises(ConfigurationError, match="leave checkpoint out"):
        ExactDeduplication(data, tmp_path / "out").run(LocalExecutor(checkpoint=str(tmp_path / "c")))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_extra():
    program = "import sys; sys.modules['numpy'] = None\nfrom gpuexec.dedup import FuzzyDeduplication"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "ConfigurationError: deduplication needs numpy: pip install 'gpuexec[dedup]'" in done.stderr
