"""Gzip files of pieces that are compressed by themselves."""

from __future__ import annotations

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report import gzip_pieces

TEXTS = st.lists(st.binary(max_size=3000), max_size=8)


@given(TEXTS, st.binary(max_size=100))
def test_pieces_in_a_row_are_the_texts_in_a_row(texts, end):
    file = gzip_pieces.joined(map(gzip_pieces.compressed, texts), end)
    assert gzip.decompress(file) == b"".join(texts) + end


@given(TEXTS)
def test_a_file_is_whole_after_every_step_of_a_piece(texts):
    compressor, data, so_far = gzip_pieces.Compressor(), gzip_pieces.header(), b""
    for text in texts:
        data += compressor.add(text)
        so_far += text
        assert gzip.decompress(data + gzip_pieces.tail(compressor.sum, b"end")) == so_far + b"end"
    data += compressor.add(b"", last=True)
    assert gzip.decompress(data + gzip_pieces.tail(compressor.sum, b"")) == so_far
    assert compressor.sum == (zlib.crc32(so_far), len(so_far))


@given(st.binary(max_size=5000), st.binary(max_size=5000))
def test_the_checksum_of_two_texts_comes_from_theirs(first, second):
    joined = gzip_pieces.joined_checksum(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


@given(TEXTS, st.data())
def test_a_piece_can_be_left_out(texts, data):
    pieces = [gzip_pieces.compressed(text) for text in texts]
    kept = data.draw(st.lists(st.sampled_from(range(len(texts))), unique=True) if texts else st.just([]))
    file = gzip_pieces.joined([pieces[n] for n in kept], b"")
    assert gzip.decompress(file) == b"".join(texts[n] for n in kept)
