"""What a deduplication is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuexec.records import Record

ID_COLUMN = "_curator_dedup_id"  # the names of columns and folders are those of NeMo Curator
EXACT_GROUP_COLUMN = "_exact_duplicate_group"
FUZZY_GROUP_COLUMN = "_duplicate_group_id"


class Method(Record):
    """How documents are compared. The defaults are those of NeMo Curator's workflows.

    ``fuzzy``: by MinHash, else by the MD5 of their text. The other fields are only for MinHash: ``char_ngrams`` in
    characters; ``num_bands`` bands of ``minhashes_per_band`` minima each; ``bits`` of a hash, 32 or 64.
    """

    fuzzy: bool
    seed: int = 42
    char_ngrams: int = 24
    num_bands: int = 20
    minhashes_per_band: int = 13
    bits: int = 32

    @property
    def keys_per_document(self) -> int:
        """How many keys a document has."""
        return self.num_bands if self.fuzzy else 1


class Settings(Record):
    """What decides the result, besides the documents.

    ``text``, ``id``: columns; without ``id``, documents are numbered. ``group_empty``: documents without text are
    duplicates of each other. ``remove``: write the other documents.
    """

    method: Method
    text: str
    id: str | None
    normalize_text: bool
    group_empty: bool
    remove: bool


def keys_maker(settings: Settings) -> Any:
    """Return a function that makes keys uint8[n, keys_per_document, 16] of texts."""
    import numpy as np

    from gpuexec.dedup.bands import band_keys, normalized, text_keys
    from gpuexec.dedup.minhash import MinHasher

    method = settings.method
    hasher = MinHasher(method.num_bands * method.minhashes_per_band, method.char_ngrams, method.seed, method.bits)

    def keys_of(texts: Sequence[str | None]) -> Any:
        if settings.normalize_text:
            texts = [None if text is None else normalized(text) for text in texts]
        if not method.fuzzy:
            return text_keys(texts)
        keys = np.array(band_keys(hasher.signatures([text or "" for text in texts]), method.num_bands))
        keys[[text is None for text in texts]] = text_keys([None])  # no signature: the MD5 of nothing
        return keys

    return keys_of
