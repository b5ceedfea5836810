"""Files are found in a fixed order and cut into blocks that do not depend on who reads them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuexec import ConfigurationError
from gpuexec.dedup.inputs import blocks_of, sources_of

NOWHERE = Path("/nowhere")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for name in ("b.jsonl", "a.jsonl.gz", "sub/c.parquet", "sub/d.ndjson", "e.json.zst"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"12345")
    for name in (".hidden.jsonl", "_SUCCESS.json", "readme.txt", "archive.gz", "_tmp/f.jsonl"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"")
    return data


def names(paths, apart_from: Path = NOWHERE) -> list[str]:
    return [source.name for source in sources_of(paths, apart_from=apart_from)]


def test_a_folder_is_read_to_its_depth(folder: Path):
    assert names(folder) == ["a.jsonl.gz", "b.jsonl", "e.json.zst", "sub/c.parquet", "sub/d.ndjson"]


def test_patterns_and_files_are_sorted_and_read_once(folder: Path):
    paths = [folder / "sub" / "d.ndjson", str(folder / "*.jsonl"), folder / "b.jsonl", str(folder / "**" / "*.parquet")]
    assert names(paths) == ["b.jsonl", "sub/c.parquet", "sub/d.ndjson"]


def test_files_of_the_same_name_keep_different_names(tmp_path: Path):
    for parent in ("one", "two"):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "part.jsonl").touch()
    assert names([tmp_path / "two", tmp_path / "one" / "part.jsonl"]) == ["one/part.jsonl", "two/part.jsonl"]


def test_the_output_inside_the_input_is_not_read(folder: Path):
    assert names(folder, apart_from=folder / "sub") == ["a.jsonl.gz", "b.jsonl", "e.json.zst"]


def test_a_file_with_several_names_is_read_once(folder: Path):
    (folder / "back").symlink_to(".")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "z.jsonl").symlink_to("b.jsonl")
    expected = ["a.jsonl.gz", "b.jsonl", "e.json.zst", "sub/c.parquet", "sub/d.ndjson"]
    assert names([folder, folder / "sub" / ".." / "b.jsonl", folder / "sub" / ".."]) == expected


def test_a_link_to_a_file_keeps_its_own_name(tmp_path: Path):
    (tmp_path / "blob").touch()
    (tmp_path / "a.jsonl").symlink_to("blob")
    assert names(tmp_path / "a.jsonl") == ["a.jsonl"]


def test_a_file_may_have_the_letters_of_patterns_in_its_name(tmp_path: Path):
    (tmp_path / "a[1].jsonl").touch()
    assert names(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]


def test_the_output_is_not_read_through_a_link(folder: Path):
    (folder / "out").symlink_to("sub")
    assert names(folder, apart_from=folder / "out") == ["a.jsonl.gz", "b.jsonl", "e.json.zst"]


@pytest.mark.parametrize("output", [".", ".."])
def test_an_output_that_holds_all_of_the_input_is_refused(folder: Path, output: str):
    with pytest.raises(ConfigurationError, match="all of the input is in the output folder"):
        sources_of(folder, apart_from=folder / output)


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        ("missing.jsonl", "does not exist"),
        ([], "no documents to read in an empty list"),
        ("s3://bucket/a.jsonl", "only files of this machine"),
        ("*.nothing", "no documents to read"),
    ],
)
def test_what_cannot_be_read_is_refused(paths, problem: str):
    with pytest.raises(ConfigurationError, match=problem):
        sources_of(paths, apart_from=NOWHERE)


def test_a_file_of_an_unknown_format_is_refused(folder: Path):
    with pytest.raises(ConfigurationError, match="unknown format"):
        sources_of(folder / "readme.txt", apart_from=NOWHERE)


def test_blocks_cover_each_file_once(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b"x" * 2500)
    (tmp_path / "b.jsonl.gz").write_bytes(b"x" * 2500)
    (tmp_path / "c.jsonl").write_bytes(b"")
    pq.write_table(pa.table({"text": ["some text"] * 100}), tmp_path / "d.parquet", row_group_size=10)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "e.parquet")
    group_bytes = pq.read_metadata(tmp_path / "d.parquet").row_group(0).total_byte_size
    blocks = blocks_of(sources_of(tmp_path, apart_from=NOWHERE), max(1000, 3 * group_bytes))
    assert [block.index for block in blocks] == list(range(len(blocks)))
    spans = [(block.source.name, block.start, block.end, block.part) for block in blocks]
    assert [span for span in spans if span[0] == "a.jsonl"][-1][2] == 2500
    assert ("b.jsonl.gz", 0, 2500, None) in spans
    assert ("c.jsonl", 0, 0, None) in spans
    groups = [span[1:3] for span in spans if span[0] == "d.parquet"]
    assert [group for start, end in groups for group in range(start, end)] == list(range(10))
    assert [span[1:] for span in spans if span[0] == "e.parquet"] in ([(0, 0, None)], [(0, 1, None)])


def test_damaged_parquet_is_refused_before_anything_starts(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ConfigurationError, match=r"a\.parquet.*cannot be read as Parquet"):
        blocks_of(sources_of(tmp_path, apart_from=NOWHERE), 1000)
