"""Documents are read whole and in order, however a file is cut, and each problem names where it is."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.dedup import UnreadableInput
from gpuexec.dedup.filtering import copy_without
from gpuexec.dedup.inputs import Block, blocks_of, sources_of
from gpuexec.dedup.reading import read_documents

NOWHERE = Path("/nowhere")
TEXTS = ["one", None, "", "Ünïcode 😀\n\u2028", "x" * 5000, "last"]
LINES = b"".join(json.dumps({"text": text, "id": number}).encode() + b"\n" for number, text in enumerate(TEXTS))


def blocks(path: Path, size: int = 1 << 20) -> list[Block]:
    return blocks_of(sources_of(path, apart_from=NOWHERE), size)


def texts(path: Path, size: int = 1 << 20, **columns: Any) -> list[str | None]:
    options = {"text": "text", "id_column": None, **columns}
    return [text for block in blocks(path, size) for found in read_documents(block, **options) for text in found.texts]


def packed_zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.output_stream(sink, compression="zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": packed_zst}


@pytest.mark.parametrize("suffix", PACKERS)
def test_json_lines_compressed_or_not(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](LINES))
    assert texts(path) == TEXTS


@pytest.mark.parametrize("size", [10, 33, 100, 10_000])
def test_each_line_is_in_one_block(tmp_path: Path, size: int):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n \r\n" + LINES.rstrip(b"\n"))
    assert texts(path, size) == TEXTS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=20), st.integers(1, 200))
def test_any_lines_and_any_cut(tmp_path_factory: pytest.TempPathFactory, expected: list[str], size: int):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in expected), newline="")
    assert texts(path, size) == expected


def test_a_mark_at_the_begin_of_a_file_is_no_text(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINES)
    assert texts(path) == TEXTS


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType):
    path = tmp_path / "a.parquet"
    table = pa.table({"other": range(len(TEXTS)), "text": pa.array(TEXTS, pa.string()).cast(kind)})
    pq.write_table(table, path, row_group_size=2)
    assert texts(path, 1) == TEXTS


def test_ids_come_with_their_texts(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (found,) = read_documents(blocks(tmp_path)[0], "text", "id")
    assert found.ids == list(range(len(TEXTS)))


def test_a_document_without_the_column_has_no_text(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"other": 1}\n')
    assert texts(tmp_path) == ["a", None]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"text": "a"', r"the line at byte 14 is not JSON"),
        ("[1, 2]", r"the line at byte 14 is of type list; each line is to be one document"),
        ('{"text": 5, "id": 1}', r"byte 14: column 'text' has a value of type int, not a text"),
        ('{"text": "a", "id": null}', r"byte 14: column 'id' has None where an id should be"),
        ('{"text": "a", "id": 1.5}', r"byte 14: column 'id' has 1.5 where an id should be"),
        ('{"text": "\xff"}', r"the line at byte 14 is not JSON"),
        (
            '{"text": "a", "id": 1, "deep": ' + "[" * 200_000 + "]" * 200_000 + "}",
            r"the line at byte 14 is nested too deeply",
        ),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path: Path, line: str, problem: str):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "one"}\n' + line.encode("latin-1"))
    with pytest.raises(UnreadableInput, match=problem):
        texts(tmp_path, id_column="id")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str):
    if name == "a.jsonl":
        (tmp_path / name).write_text('{"body": "x", "url": "y"}\n' * 3)
    else:
        pq.write_table(pa.table({"body": ["x"], "url": ["y"]}), tmp_path / name)
    with pytest.raises(UnreadableInput, match=r"has no column 'text'; it has 'body', 'url'"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": [1]}, "column 'text' has values of type int64, and should have text"),
        ({"text": ["a"], "id": [1.5]}, "column 'id' has values of type double, and should have texts or whole numbers"),
        ({"text": ["a", "b"], "id": [1, None]}, "1 documents have no id in column 'id'"),
    ],
)
def test_what_is_wrong_with_parquet(tmp_path: Path, columns: dict[str, Any], problem: str):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UnreadableInput, match=problem):
        texts(tmp_path, id_column="id" if "id" in columns else None)


def test_two_columns_of_one_name_are_refused(tmp_path: Path):
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UnreadableInput, match=r"a\.parquet has 2 columns 'text'"):
        texts(tmp_path)


def test_a_column_of_nothing_but_none_has_no_texts(tmp_path: Path):
    pq.write_table(pa.table({"text": pa.nulls(2)}), tmp_path / "a.parquet")  # as pandas writes it
    assert texts(tmp_path) == [None, None]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_file_that_is_damaged_in_its_midst_is_named(tmp_path: Path, suffix: str):
    lines = b"".join(b'{"text": "%d"}\n' % (number * number) for number in range(5000))
    data = bytearray(PACKERS[suffix](lines))
    data[len(data) // 3 : len(data) // 3 + 10] = b"\xff" * 10
    (tmp_path / f"a.jsonl{suffix}").write_bytes(data)
    with pytest.raises(UnreadableInput, match=rf"a\.jsonl{suffix}"):
        texts(tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str):
    (tmp_path / f"a.jsonl{suffix}").write_bytes(PACKERS[suffix](LINES * 50)[:-30])
    with pytest.raises(UnreadableInput, match=rf"a\.jsonl{suffix} cannot be read"):
        texts(tmp_path)


def test_a_file_that_has_changed_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    (block,) = blocks(path)
    path.write_bytes(LINES + LINES)
    with pytest.raises(UnreadableInput, match="was changed since"):
        list(read_documents(block, "text", None))
    path.unlink()
    with pytest.raises(UnreadableInput, match="cannot be read: No such file"):
        list(read_documents(block, "text", None))


@pytest.mark.parametrize("suffix", PACKERS)
def test_lines_are_copied_as_they_are(tmp_path: Path, suffix: str):
    path, target = tmp_path / f"a.jsonl{suffix}", tmp_path / "out" / f"a.jsonl{suffix}"
    odd = b'{"text":  "spaces stay", "n": 1.50}\n{"text": "removed"}\n\n{"text": "no end of line"}'
    path.write_bytes(PACKERS[suffix](odd))
    (block,) = blocks(path)
    copy_without(block, pa.array([1]).to_numpy(), target)
    assert texts(target) == ["spaces stay", "no end of line"]
    if not suffix:
        assert target.read_bytes() == b'{"text":  "spaces stay", "n": 1.50}\n{"text": "no end of line"}\n'


def test_parquet_keeps_its_columns(tmp_path: Path):
    path, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    table = pa.table({"text": ["a", "b", "c"], "list": [[1], [], None]}).replace_schema_metadata({"made": "here"})
    pq.write_table(table, path)
    (block,) = blocks(path)
    copy_without(block, pa.array([1]).to_numpy(), target)
    copied = pq.read_table(target)
    assert copied.equals(table.take([0, 2]))
    assert copied.schema.metadata[b"made"] == b"here"


def test_parquet_keeps_its_compression_and_has_few_row_groups(tmp_path: Path):
    path, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    pq.write_table(pa.table({"text": [str(number) for number in range(20_000)]}), path, compression="zstd")
    (block,) = blocks(path)
    copy_without(block, pa.array([1]).to_numpy(), target)
    copied = pq.read_metadata(target)
    assert (copied.num_rows, copied.num_row_groups) == (19_999, 1)
    assert copied.row_group(0).column(0).compression == "ZSTD"
