"""What users call: exact and fuzzy deduplication of files on one node, without a GPU and without Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gpuexec.dedup.grouping import RECORD
from gpuexec.dedup.inputs import Paths, packing_of, sources_of
from gpuexec.dedup.settings import Method, Settings
from gpuexec.dedup.workflow import DedupResult, Workflow, check_executor
from gpuexec.dedup.workplace import job_in, locked
from gpuexec.errors import ConfigurationError
from gpuexec.units import GIB, KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpuexec.contract.executor import BaseExecutor
    from gpuexec.dedup.inputs import Source

_DOCUMENT_BYTES = 500  # an assumption for the number of shares only, on the safe side: documents are mostly longer
_PACKED = 5  # text shrinks to about a fifth
_EXACT_SHARES = 16  # enough to keep that many workers busy


class _Deduplication:
    """What both kinds have in common."""

    def __init__(
        self,
        input: Paths,  # noqa: A002 - the word for it
        output: str | os.PathLike[str],
        method: Method,
        *,
        text: str = "text",
        id: str | None = None,  # noqa: A002
        remove: bool = False,
        normalize_text: bool = False,
        group_empty: bool = True,
        memory_bytes: int = GIB,
        block_bytes: int = 128 * MIB,
        partitions: int | None = None,
        overwrite: bool = False,
        keep_work: bool = False,
    ) -> None:
        if id == text:
            raise ConfigurationError(f"text and id are the same column {text!r}")
        _check_at_least("memory_bytes", memory_bytes, MIB)
        _check_at_least("block_bytes", block_bytes, KIB)
        if partitions is not None:
            _check_at_least("partitions", partitions, 1)
        self.input = input
        self.output = Path(output).absolute()
        self.settings = Settings(method, text, id, normalize_text, group_empty, remove)
        self.memory_bytes, self.block_bytes, self.partitions = memory_bytes, block_bytes, partitions
        self.overwrite, self.keep_work = overwrite, keep_work

    def run(self, executor: BaseExecutor | None = None) -> DedupResult:
        """Find the duplicates, and remove them if asked to. Without ``executor``, a `LocalExecutor` runs the stages.

        If a run was interrupted, the same call goes on from where it was. If it has ended, its result is returned.

        Raises ``ConfigurationError`` before anything starts, `OutputInUse` if the output folder has other results or is
        in use, `UnreadableInput`, `DuplicateIds`, `OutputNotWritten`, and what the executor raises.
        """
        if executor is None:
            from gpuexec.executors.local import LocalExecutor

            executor = LocalExecutor()
        check_executor(executor)
        sources = sources_of(self.input, apart_from=self.output)
        with locked(self.output):
            job = job_in(
                self.output,
                self.settings,
                sources,
                block_bytes=self.block_bytes,
                shares=self.partitions or self._shares(sources),
                overwrite=self.overwrite,
            )
            return Workflow(job, executor, self.memory_bytes).run(keep_work=self.keep_work)

    def _shares(self, sources: Sequence[Source]) -> int:
        """Return into how many parts to cut each band, so that one is mostly compared in a single pass."""
        size = sum(source.size * (_PACKED if packing_of(source.path) else 1) for source in sources)
        needed = -(-size // _DOCUMENT_BYTES * RECORD.itemsize * 12 // self.memory_bytes)
        return max(1 if self.settings.method.fuzzy else _EXACT_SHARES, needed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input={self.input!r}, output={str(self.output)!r})"


class ExactDeduplication(_Deduplication):
    """Finds documents with the same text, by its MD5. Of each group the first document stays.

    ``input``: files, patterns, or folders of JSON lines (also compressed) and Parquet; the order of documents is that
    of the sorted paths. ``output``: the folder of the results. ``text``: the column with the text; ``None``, a missing
    value and ``""`` are no text. ``id``: the column with the ids, texts or whole numbers that must be unique; without
    it, documents are numbered from 0. ``remove``: also write the documents that stay, to ``output/documents``.
    ``normalize_text``: compare in lower case and with single spaces. ``group_empty``: documents without text are
    duplicates of each other, as in NeMo Curator; else all of them stay.

    ``memory_bytes``: what comparing may need in each worker, at least 1 MiB. ``block_bytes``: what one task reads of a
    file. ``partitions``: into how many parts keys are cut that are compared one after the other. Neither changes the
    result. ``overwrite``: replace results of other settings or documents that are in the output folder. ``keep_work``:
    leave ``output/work`` in place.

    Raises ``ConfigurationError`` for settings that cannot work.
    """

    def __init__(
        self,
        input: Paths,  # noqa: A002
        output: str | os.PathLike[str],
        *,
        text: str = "text",
        id: str | None = None,  # noqa: A002
        remove: bool = False,
        normalize_text: bool = False,
        group_empty: bool = True,
        memory_bytes: int = GIB,
        block_bytes: int = 128 * MIB,
        partitions: int | None = None,
        overwrite: bool = False,
        keep_work: bool = False,
    ) -> None:
        super().__init__(
            input,
            output,
            Method(fuzzy=False),
            text=text,
            id=id,
            remove=remove,
            normalize_text=normalize_text,
            group_empty=group_empty,
            memory_bytes=memory_bytes,
            block_bytes=block_bytes,
            partitions=partitions,
            overwrite=overwrite,
            keep_work=keep_work,
        )


class FuzzyDeduplication(_Deduplication):
    """Finds documents with nearly the same text, by MinHash and bands. Of each group the first document stays.

    Two documents are neighbours if their signatures agree in one band; a group is all documents that neighbours
    connect. The signature has ``num_bands * minhashes_per_band`` minima over the hashes of all n-grams of
    ``char_ngrams`` characters. With the defaults, which are NeMo Curator's, two documents of Jaccard similarity 0.8 are
    neighbours with a probability of 68 %, those of 0.9 with 99.7 %, and those of 0.6 with 2.6 %. ``use_64bit_hash``:
    hashes of 64 bits. ``seed``: of the permutations.

    The other arguments are those of `ExactDeduplication`.
    """

    def __init__(
        self,
        input: Paths,  # noqa: A002
        output: str | os.PathLike[str],
        *,
        seed: int = 42,
        char_ngrams: int = 24,
        num_bands: int = 20,
        minhashes_per_band: int = 13,
        use_64bit_hash: bool = False,
        text: str = "text",
        id: str | None = None,  # noqa: A002
        remove: bool = False,
        normalize_text: bool = False,
        group_empty: bool = True,
        memory_bytes: int = GIB,
        block_bytes: int = 128 * MIB,
        partitions: int | None = None,
        overwrite: bool = False,
        keep_work: bool = False,
    ) -> None:
        for name, value, least in (
            ("seed", seed, 0),
            ("char_ngrams", char_ngrams, 2),
            ("num_bands", num_bands, 1),
            ("minhashes_per_band", minhashes_per_band, 1),
        ):
            _check_at_least(name, value, least)
        bits = 64 if use_64bit_hash else 32
        super().__init__(
            input,
            output,
            Method(True, seed, char_ngrams, num_bands, minhashes_per_band, bits),
            text=text,
            id=id,
            remove=remove,
            normalize_text=normalize_text,
            group_empty=group_empty,
            memory_bytes=memory_bytes,
            block_bytes=block_bytes,
            partitions=partitions,
            overwrite=overwrite,
            keep_work=keep_work,
        )


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least:,}, got {value!r}")
