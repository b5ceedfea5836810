"""Keys of documents: two documents with an equal key are duplicates. One for exact copies, one per band of a signature.

The hashes are those of NeMo Curator: MD5 of the text, and MD5 of the minima of a band as little-endian numbers (cuDF,
``cpp/src/hash/md5_hash.cu``). cuDF skips nulls, so a document without text has the MD5 of nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DIGEST = 16  # bytes of an MD5

_SPACES = re.compile(r"[\x00-\x20]+")  # what cuDF's normalize_spaces counts as white space


def text_keys(texts: Sequence[str | None]) -> Array:
    """Return uint8[n, 1, 16]: the MD5 of each text in UTF-8."""
    digests = b"".join(_md5((text or "").encode("utf-8", "surrogatepass")) for text in texts)
    return np.frombuffer(digests, np.uint8).reshape(len(texts), 1, DIGEST)


def band_keys(signatures: Array, num_bands: int) -> Array:
    """Return uint8[n, num_bands, 16]: the MD5 of each band of each signature."""
    count, width = signatures.shape
    bytes_per_band = width // num_bands * signatures.itemsize
    data = np.ascontiguousarray(signatures, signatures.dtype.newbyteorder("<")).tobytes()
    starts = range(0, count * num_bands * bytes_per_band, bytes_per_band)
    digests = b"".join(_md5(data[start : start + bytes_per_band]) for start in starts)
    return np.frombuffer(digests, np.uint8).reshape(count, num_bands, DIGEST)


def bucket_name(band: int, key: bytes, bands_per_iteration: int) -> str:
    """Return how Curator names the bucket of a key: it numbers the bands of each iteration from 0."""
    return f"b{band % bands_per_iteration}_{key.hex()}"


def normalized(text: str) -> str:
    """Return a text in lower case, with one space for each run of white space and none at the ends.

    Characters are lowered one by one, as cuDF does it, so a sigma at the end of a word is like any other.
    """
    lowered = text.lower() if text.isascii() else "".join(map(str.lower, text))
    return _SPACES.sub(" ", lowered).strip(" ")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
