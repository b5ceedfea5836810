"""Keys are the MD5 that cuDF computes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from gpuexec.dedup.bands import band_keys, bucket_name, normalized, text_keys


def test_texts_have_the_md5_of_their_bytes():
    keys = text_keys(["abc", "Ärger €", "", None])
    assert keys.shape == (4, 1, 16)
    assert [bytes(key[0]).hex() for key in keys] == [
        "900150983cd24fb0d6963f7d28e17f72",  # RFC 1321, A.5
        hashlib.md5("Ärger €".encode()).hexdigest(),
        "d41d8cd98f00b204e9800998ecf8427e",  # RFC 1321, A.5
        "d41d8cd98f00b204e9800998ecf8427e",  # cuDF skips nulls
    ]


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_bands_have_the_md5_of_their_minima(kind: type):
    signatures = np.arange(24, dtype=kind).reshape(2, 12)
    keys = band_keys(signatures, 3)
    assert keys.shape == (2, 3, 16)
    for document in range(2):
        for band in range(3):
            part = signatures[document, 4 * band : 4 * band + 4]
            data = b"".join(int(value).to_bytes(part.itemsize, "little") for value in part)
            assert bytes(keys[document, band]) == hashlib.md5(data).digest()


def test_buckets_have_the_names_that_curator_gives_them():
    key = bytes(range(16))
    assert bucket_name(0, key, 5) == "b0_000102030405060708090a0b0c0d0e0f"
    assert bucket_name(7, key, 5).startswith("b2_")  # each iteration begins at 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Two\t\nWords ", "two words"),
        ("ÄRGER", "ärger"),
        ("ΣΑΣ", "σασ"),
        ("", ""),
        (" \n", ""),
        ("a\u00a0b", "a\u00a0b"),
    ],
)
def test_normalized(text: str, expected: str):
    assert normalized(text) == expected
