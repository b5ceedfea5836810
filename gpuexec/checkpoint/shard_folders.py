"""The checkpoint folders of shards: one below the folder that all of them are given.

    FOLDER/shard-00-of-16/.gpuexec/…
    FOLDER/shard-01-of-16/.gpuexec/…

So machines with the same options never write the same file. A folder belongs to one number of shards: another number
would deal the sources out anew, and what one shard has done, another would not skip.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from gpuexec.checkpoint.journal import FILE_NAME, SUBFOLDER
from gpuexec.errors import CheckpointError, CheckpointMismatch
from gpuexec.shards import Shard

_NAME = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


def shard_named(folder_name: str) -> Shard | None:
    """Return the shard to which a folder of this name belongs; ``None``: it is not a shard's."""
    found = _NAME.fullmatch(folder_name)
    if found is None or not int(found[1]) < int(found[2]):
        return None
    return Shard(int(found[1]), int(found[2]))


def shards_in(folder: str | os.PathLike[str]) -> dict[Shard, Path]:
    """Return the folders of shards in a folder, in their order; none if the folder does not exist.

    Raises ``CheckpointError`` if it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = {shard: Path(e.path) for e in entries if (shard := shard_named(e.name)) is not None and e.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} cannot be read: {error.strerror}") from error
    return {shard: found[shard] for shard in sorted(found, key=lambda each: (each.count, each.index))}


def folder_of(folder: str | os.PathLike[str], shard: Shard | None) -> Path:
    """Return the checkpoint folder of a shard in the folder that all shards are given; made if it is missing.

    Without a shard, the folder itself. Raises ``CheckpointMismatch`` if the folder is used with another number of
    shards, ``CheckpointError`` if it cannot be written.
    """
    if shard is None:
        _refuse_others(folder, 1, [each for each in shards_in(folder) if each.count > 1])
        return Path(folder)
    if (Path(folder) / SUBFOLDER / FILE_NAME).is_file():
        raise CheckpointMismatch(
            f"checkpoint {str(folder)!r} was made by runs without shards, and what they have done would not be skipped "
            f"by shard {shard}: give another folder, or run without a shard"
        )
    own = Path(folder) / shard.folder_name
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"checkpoint {str(own)!r} cannot be written: {error.strerror}") from error
    # Only now: of two machines with different numbers that start together, at least one sees the other.
    others = [each for each in shards_in(folder) if each.count != shard.count]
    if others:
        with contextlib.suppress(OSError):
            own.rmdir()  # if it is new, and so empty
    _refuse_others(folder, shard.count, others)
    return own


def _refuse_others(folder: str | os.PathLike[str], count: int, others: list[Shard]) -> None:
    if not others:
        return
    counts = ", ".join(map(str, sorted({each.count for each in others})))
    raise CheckpointMismatch(
        f"checkpoint {str(folder)!r} was made with {counts} shards, and this run has {count}: its sources would be "
        f"dealt out anew, and what is done would not be skipped. Give shard='K/{counts}' as before, or another folder"
    )
