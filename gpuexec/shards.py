"""Shards: which part of a run's sources this machine processes, when several work beside each other.

Nobody hands out the sources. Every machine lists all of them and keeps its own, so the rule must be the same everywhere
(docs/adr/0017-shards.md). `shard_of` depends on the source's id alone: not on the other sources, their order, the
number of workers, or ``PYTHONHASHSEED``.
"""

from __future__ import annotations

import re

from gpuexec.errors import ConfigurationError, StageContractError
from gpuexec.records import Record

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")
_RANDOM_ID = re.compile("r[0-9a-f]{32}")


class Shard(Record):
    """Shard ``index`` of ``count``, counted from 0."""

    index: int
    count: int

    def __str__(self) -> str:
        """Return it as the option ``shard`` takes it."""
        return f"{self.index}/{self.count}"

    @property
    def folder_name(self) -> str:
        """The name of its checkpoint folder. Numbers have leading zeros, so that names sort as the shards do."""
        return f"shard-{self.index:0{len(str(self.count - 1))}}-of-{self.count}"

    @classmethod
    def read(cls, text: str, where: str = "shard") -> Shard:
        """Read "K/N". Raises ``ConfigurationError``, which begins with ``where``, for anything that is no shard."""
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise ConfigurationError(f"{where}: {text!r} is not a shard: write K/N, such as 0/8 for the first of 8")
        return cls.checked(int(found[1]), int(found[2]), where)

    @classmethod
    def checked(cls, index: int, count: int, where: str) -> Shard:
        """Return the shard. Raises ``ConfigurationError``, which begins with ``where``, for one that does not exist."""
        if count < 1:
            raise ConfigurationError(f"{where}: there must be at least one shard, got {index}/{count}")
        if not 0 <= index < count:
            raise ConfigurationError(
                f"{where}: there is no shard {index}/{count}: they are counted from 0, so the last of {count} is "
                f"{count - 1}/{count}"
            )
        return cls(index, count)


def shard_of(source_id: str, count: int, *, by_content: bool) -> int:
    """Return which of ``count`` shards a source belongs to.

    ``by_content``: its id ends with what its task's ``get_deterministic_id()`` returned. Such a source, and one whose
    id has anything but numbers in it, is dealt out by a hash of the id: the first 64 bits of its SHA-256, as NeMo
    Curator's filter for SLURM arrays has it. Other ids are positions, and their sum decides: neighbours go to different
    shards, and the shards of a list are equally large.

    Raises ``StageContractError`` for a random id, which every machine makes up anew.
    """
    segments = source_id.split("_")
    if not by_content and all(segment.isascii() and segment.isdecimal() for segment in segments):
        return sum(map(int, segments)) % count
    refuse_random(source_id, "the shards would not agree on whose a task is")
    import hashlib  # only a run with a shard pays for it

    digest = hashlib.sha256(source_id.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % count


def refuse_random(source_id: str, consequence: str) -> None:
    """Raise ``StageContractError``, with the consequence, if the id of a source is random: no other run has it."""
    if _RANDOM_ID.fullmatch(source_id):
        raise StageContractError(
            "the source stage returned another number of tasks than it was given, so their ids are random, and "
            f"{consequence}: give it batch_size=1, or return one task per input"
        )


def content_id(task_id: str, own_id: str) -> str:
    """Return the id of a source by its content: its own id in the place of its position below its parent."""
    if task_id == own_id or task_id.endswith(f"_{own_id}"):
        return task_id
    parent = task_id.rpartition("_")[0]
    return f"{parent}_{own_id}" if parent else own_id
