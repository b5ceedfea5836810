"""What identifies a pipeline for its checkpoint: settings that change what comes out, stage by stage.

Left out, since outputs do not depend on them: batch size, resources, worker counts, Ray's and Xenna's
options, a stage's underscore attributes (its own state, metrics and caches) and whatever is a credential,
which a file must not hold. Modules are left out too: a script's classes change theirs with the way it is run.

Values count as far as they are plain data, also inside the objects a stage holds (a filter's ``_min_words``
is a setting, though private). Of anything else only the type counts.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import hashlib
import inspect
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

from gpuexec.capsules.redact import mask_text
from gpuexec.contract.base_classes import is_base_class
from gpuexec.contract.interfaces import StageLike

_WITHOUT_EFFECT = {
    "name",  # compared apart
    "batch_size",
    "resources",
    "runtime_env",
    "num_workers",
    "num_workers_per_node",
    "ray_stage_spec",
    "xenna_stage_spec",
    "is_sink_stage",
    "is_resumable",
}
_CREDENTIAL = re.compile(
    r"(^|_)((api|access|secret|private)_?key|(hf|auth|access|api|bearer)_?token|password|secret|credentials?)$",
    re.IGNORECASE,
)
_BY_TEXT = (
    os.PathLike,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    complex,
)
_DEEPEST = 5  # objects in objects; also what ends a cycle
_SHOWN = 200  # characters; longer values are kept as their beginning and a hash


@dataclass(frozen=True, slots=True)
class StageFingerprint:
    """A stage's name, its class without module, and its settings as text."""

    name: str
    class_name: str
    settings: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A pipeline's stages, in order."""

    stages: tuple[StageFingerprint, ...]

    @property
    def digest(self) -> str:
        """A short name of the whole, the same for equal pipelines."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """As text, for the journal."""
        return json.dumps([asdict(stage) for stage in self.stages], sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Read what ``to_json`` wrote."""
        return cls(tuple(StageFingerprint(**stage) for stage in json.loads(text)))


def fingerprint_of(stages: Sequence[StageLike]) -> Fingerprint:
    """Describe stages of any library as they are now, before any ``setup``."""
    return Fingerprint(
        tuple(
            StageFingerprint(
                name=str(stage.name),
                class_name=type(stage).__qualname__,
                settings={name: _text(value) for name, value in sorted(_settings(stage).items())},
            )
            for stage in stages
        )
    )


def differences(was: Fingerprint, now: Fingerprint) -> list[str]:
    """Say how a pipeline has changed, one line a difference; empty if it has not."""
    before, after = ([stage.name for stage in each.stages] for each in (was, now))
    lines = []
    if before != after:
        lines.append(f"the stages were {' → '.join(before)}, are {' → '.join(after)}")
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            place = f"stage {after[block.b + offset]!r} ({block.b + offset + 1} of {len(after)})"
            changes = _stage_differences(was.stages[block.a + offset], now.stages[block.b + offset])
            lines += [f"{place}: {change}" for change in changes]
    return lines


def _stage_differences(was: StageFingerprint, now: StageFingerprint) -> Iterator[str]:
    if was.class_name != now.class_name:
        yield f"its class was {was.class_name}, is {now.class_name}"
    for name in sorted(was.settings.keys() | now.settings.keys()):
        before, after = was.settings.get(name), now.settings.get(name)
        if before is None:
            yield f"{name} was not there, is {after}"
        elif after is None:
            yield f"{name} was {before}, is no longer there"
        elif before != after:
            yield f"{name} was {before}, is {after}"


def _settings(stage: Any) -> dict[str, Any]:
    """The stage's public data attributes, those of its own classes included."""
    found: dict[str, Any] = {}
    for cls in reversed(type(stage).__mro__):
        if not is_base_class(cls):
            found.update({name: value for name, value in vars(cls).items() if _is_data(value)})
    found.update(vars(stage))
    return {
        name: value
        for name, value in found.items()
        if not name.startswith("_") and name not in _WITHOUT_EFFECT and not _CREDENTIAL.search(name)
    }


def _is_data(value: Any) -> bool:
    return not (callable(value) or hasattr(type(value), "__get__"))


def _text(value: Any) -> str:
    text = mask_text(json.dumps(_plain(value, _DEEPEST), ensure_ascii=False, sort_keys=True), {})
    if len(text) <= _SHOWN:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{text[:_SHOWN]}… ({len(text)} characters, hash {digest})"


def _plain(value: Any, depth: int) -> Any:
    """Reduce to what JSON holds, in an order that is the same in every process."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum)):
        return value
    if depth == 0:
        return f"<{type(value).__qualname__}>"
    if isinstance(value, Mapping):
        return {str(k): _plain(v, depth - 1) for k, v in value.items() if not _CREDENTIAL.search(str(k))}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, depth - 1) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return _named(value) or _opened_up(value, depth)


def _named(value: Any) -> str | None:
    """Text that stands for values of well-known types."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, bytes | bytearray):
        return f"<{len(value)} bytes, hash {hashlib.sha256(value).hexdigest()[:16]}>"
    if isinstance(value, re.Pattern):
        return f"/{value.pattern!s}/ flags {value.flags}"
    if isinstance(value, _BY_TEXT):
        return str(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"
    return None


def _opened_up(value: Any, depth: int) -> Any:
    """An object by its type and its own data; values that are no data by type alone."""
    name = f"<{type(value).__qualname__}>"
    inside = getattr(value, "__dict__", None)
    if dataclasses.is_dataclass(value):  # also one with slots
        inside = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if not inside:
        return name
    data = {key: _plain(item, depth - 1) for key, item in sorted(inside.items()) if not _CREDENTIAL.search(key)}
    return {name: data}
