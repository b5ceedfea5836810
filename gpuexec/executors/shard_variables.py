"""Reads a process's place among others from the variables of SLURM, NeMo Curator, datatrove and torchrun. Pure.

* SLURM's job arrays: ``SLURM_ARRAY_TASK_ID``, ``_COUNT``, ``_MIN``, ``_MAX`` and ``_STEP`` (man sbatch).
* SLURM's steps of several tasks: ``SLURM_PROCID`` of ``SLURM_STEP_NUM_TASKS``, which srun sets. ``SLURM_NTASKS`` does
  not count: sbatch sets it too, for a script that runs once (man srun).
* Curator: ``NEMO_CURATOR_SLURM_ARRAY_SHARD_INDEX``, ``_TOTAL_SHARDS`` and ``_MINIMUM_SHARD_INDEX``, each of the first
  two in the place of SLURM's (``nemo_curator.backends.slurm_array``).
* torchrun: ``RANK`` of ``WORLD_SIZE``.
* datatrove's SLURM executor numbers further arrays of one job with ``RUN_OFFSET`` and does not say how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpuexec.errors import ConfigurationError
from gpuexec.records import Record
from gpuexec.shards import Shard
from gpuexec.stage.environment import CURATOR_FILTER

_ID, _COUNT, _MIN, _MAX, _STEP = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP"))
_OFFSET = "RUN_OFFSET"
_CURATOR = "NEMO_CURATOR_SLURM_ARRAY_"
_INDEX, _TOTAL, _MINIMUM = (f"{_CURATOR}{name}" for name in ("SHARD_INDEX", "TOTAL_SHARDS", "MINIMUM_SHARD_INDEX"))
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_WAY_OUT = "say which shard this is: shard='K/N', --shard K/N or GPUEXEC_SHARD=K/N"


class Found(Record):
    """A shard, and the variables that say so, with their values."""

    shard: Shard
    variables: str


def shard_of_environment(environ: Mapping[str, str], count: int | None = None) -> Found:
    """Return the shard that the variables tell. ``count``: the number of shards, if the caller knows it.

    With a ``count``, numbers are taken as they are: ``SLURM_ARRAY_TASK_ID=3`` is shard 3 also in an array of one task,
    which repeats a failed one.

    Raises ``ConfigurationError``, which names variables and values, if there are none, if they are incomplete or no
    numbers, or if they contradict each other.
    """
    array = _curator(environ, count) or _array(environ, count)  # as in Curator, its own names win over SLURM's
    found = [each for each in (array, _step(environ, count), _torchrun(environ, count)) if each is not None]
    if not found:
        raise ConfigurationError(
            f"shard='auto', but no variable tells which shard this is ({_ID} with {_COUNT}, SLURM_PROCID with "
            f"SLURM_STEP_NUM_TASKS, {_INDEX} with {_TOTAL}, RANK with WORLD_SIZE): {_WAY_OUT}"
        )
    is_step_of_array = array is not None and _step(environ, count) is not None  # its processes have two numbers each
    if is_step_of_array or len({each.shard for each in found}) > 1:
        told = "; ".join(f"{each.variables} → shard {each.shard}" for each in found)
        raise ConfigurationError(f"shard='auto', but the variables do not agree on one shard: {told}. {_WAY_OUT}")
    return Found(found[0].shard, "; ".join(each.variables for each in found))


def curator_filter(environ: Mapping[str, str]) -> Found | None:
    """Return the shard to which Curator's own filter would keep, ``None`` if it is not active.

    Raises ``ConfigurationError`` where Curator would raise, or keep nothing.
    """
    enabled = environ.get(CURATOR_FILTER)
    if not _is_enabled(enabled):
        return None
    names = [next((name for name in pair if name in environ), None) for pair in ((_INDEX, _ID), (_TOTAL, _COUNT))]
    if enabled is None and names == [None, None]:
        return None
    index, total = names
    if index is None or total is None:
        missing = f"{_INDEX} (or {_ID})" if index is None else f"{_TOTAL} (or {_COUNT})"
        raise ConfigurationError(
            f"NeMo Curator's filter for SLURM arrays is active, and {missing} is not set: set it, or "
            f"{CURATOR_FILTER}=0 to have no filter"
        )
    return _curator_shard(environ, index, total, _number(environ, total))


def _curator(environ: Mapping[str, str], count: int | None) -> Found | None:
    if not _is_enabled(environ.get(CURATOR_FILTER)) or not {_INDEX, _TOTAL} & environ.keys():
        return None
    index = _INDEX if _INDEX in environ else _ID
    total = _TOTAL if _TOTAL in environ else _COUNT
    if index not in environ or (total not in environ and count is None):
        raise ConfigurationError(
            f"shard='auto': {_told(environ, _INDEX, _TOTAL)}, and {index if index not in environ else total} is not "
            f"set: {_WAY_OUT}"
        )
    return _curator_shard(environ, index, total, count or _number(environ, total))


def _curator_shard(environ: Mapping[str, str], index: str, total: str, count: int) -> Found:
    told = _told(environ, index, total, _MINIMUM)
    minimum = _number(environ, _MINIMUM) if _MINIMUM in environ else 0
    shard = Shard.checked(_number(environ, index) - minimum, count, told)
    return Found(shard, told)


def _array(environ: Mapping[str, str], count: int | None) -> Found | None:
    if _ID not in environ:
        return None
    number = _number(environ, _ID)
    if count is not None:
        told = _told(environ, _ID, _OFFSET)
        if _OFFSET in environ:
            told = _told(environ, _ID, _COUNT, _OFFSET)
            number += _number(environ, _OFFSET) * _number(environ, _COUNT)
        return Found(Shard.checked(number, count, told), told)
    told = _told(environ, _ID, _COUNT, _MIN, _MAX, _STEP)
    if _OFFSET in environ:
        raise ConfigurationError(
            f"shard='auto': {told}, {_OFFSET}={environ[_OFFSET]}: this array is one of several, and no variable says "
            "how many shards there are: say shard='auto/N'"
        )
    size, first, last = (_number(environ, name) for name in (_COUNT, _MIN, _MAX))
    step = _number(environ, _STEP) if _STEP in environ else 1
    if size == 1:
        raise ConfigurationError(
            f"shard='auto': {told}: an array of one task is most often one that failed, submitted again, and the "
            f"variables do not say of how many: say shard='auto/N', with the N of the whole array; or {_WAY_OUT}"
        )
    if step < 1 or last - first != (size - 1) * step or (number - first) % step or not first <= number <= last:
        raise ConfigurationError(
            f"shard='auto': {told}: the array has gaps, as one has that submits some tasks again, and the variables "
            f"do not say of how many: say shard='auto/N', with the N of the whole array; or {_WAY_OUT}"
        )
    if first > 1:
        raise ConfigurationError(
            f"shard='auto': {told}: the array begins with {first}, as one may that submits some tasks again, and the "
            f"variables do not say of how many: say shard='auto/N', with the N of the whole array; or {_WAY_OUT}"
        )
    return Found(Shard.checked((number - first) // step, size, told), told)


def _step(environ: Mapping[str, str], count: int | None) -> Found | None:
    return _ranked(environ, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", count)


def _torchrun(environ: Mapping[str, str], count: int | None) -> Found | None:
    return _ranked(environ, "RANK", "WORLD_SIZE", count)


def _ranked(environ: Mapping[str, str], rank: str, size: str, count: int | None) -> Found | None:
    """Return the place among processes that a launcher has started; ``None`` for a single one."""
    if rank not in environ or size not in environ or _number(environ, size) == 1:
        return None
    told = _told(environ, rank, size)
    return Found(Shard.checked(_number(environ, rank), count or _number(environ, size), told), told)


def _is_enabled(value: str | None) -> bool:
    text = "1" if value is None else value.strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise ConfigurationError(
            f"{CURATOR_FILTER}={value!r} must be one of {', '.join((*_TRUE, *_FALSE))}: correct it, or unset it"
        )
    return text in _TRUE


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name)
    if text is None:
        raise ConfigurationError(f"shard='auto': {name} is not set, though the others are: {_WAY_OUT}")
    if not text.strip().isdecimal():
        raise ConfigurationError(f"shard='auto': {name}={text!r} is not a number: {_WAY_OUT}")
    return int(text)


def _told(environ: Mapping[str, str], *names: str) -> str:
    def shown() -> Iterator[str]:
        for name in names:
            if name in environ:
                yield f"{name}={environ[name]}"

    return ", ".join(shown())
