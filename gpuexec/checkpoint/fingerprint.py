"""The fingerprint of a pipeline: the settings of its stages that its outputs depend on. It identifies a checkpoint.

Outputs do not depend on batch sizes, resources, worker counts, options for Ray and Xenna, and a stage's underscore
attributes (its own state, metrics and caches), so these are left out. So are credentials, which must not be in a file,
and names of modules, since the module of a script's classes depends on how the script is run.

Values count if they are plain data, also inside the objects that a stage holds (a filter's ``_min_words`` is a setting,
though private). Of anything else only the type counts.
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
    "name",  # compared separately
    "batch_size",
    "resources",
    "runtime_env",
    "executor_options",
    "num_workers",
    "num_workers_per_node",
    "ray_stage_spec",
    "xenna_stage_spec",
    "is_sink_stage",
    "is_resumable",
    "max_concurrency",
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
_MAX_DEPTH = 5  # of objects within objects; it also ends cycles
_MAX_TEXT = 200  # characters; of longer values, the beginning and a hash are kept


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
        """Return a short hash, which is equal for equal pipelines."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the fingerprint as text, for the journal."""
        return json.dumps([asdict(stage) for stage in self.stages], sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Restore what ``to_json`` returned."""
        return cls(tuple(StageFingerprint(**stage) for stage in json.loads(text)))


def fingerprint_of(stages: Sequence[StageLike]) -> Fingerprint:
    """Return the fingerprint of stages, ours or Curator's, as they are before any ``setup``."""
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


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Return how a pipeline has changed, a line for each difference."""
    before, after = ([stage.name for stage in each.stages] for each in (old, new))
    lines = []
    if before != after:
        lines.append(f"the stages were {' → '.join(before)}, are {' → '.join(after)}")
    for block in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            stage = f"stage {after[block.b + offset]!r} ({block.b + offset + 1} of {len(after)})"
            changes = _stage_differences(old.stages[block.a + offset], new.stages[block.b + offset])
            lines += [f"{stage}: {change}" for change in changes]
    return lines


def _stage_differences(old: StageFingerprint, new: StageFingerprint) -> Iterator[str]:
    if old.class_name != new.class_name:
        yield f"its class was {old.class_name}, is {new.class_name}"
    for name in sorted(old.settings.keys() | new.settings.keys()):
        before, after = old.settings.get(name), new.settings.get(name)
        if before is None:
            yield f"{name} did not exist, is {after}"
        elif after is None:
            yield f"{name} was {before}, no longer exists"
        elif before != after:
            yield f"{name} was {before}, is {after}"


def _settings(stage: Any) -> dict[str, Any]:
    """Return the stage's public data attributes, including those of its own classes."""
    attributes: dict[str, Any] = {}
    for cls in reversed(type(stage).__mro__):
        if not is_base_class(cls):
            attributes.update({name: value for name, value in vars(cls).items() if _is_data(value)})
    attributes.update(vars(stage))
    return {
        name: value
        for name, value in attributes.items()
        if not name.startswith("_") and name not in _WITHOUT_EFFECT and not _CREDENTIAL.search(name)
    }


def _is_data(value: Any) -> bool:
    return not (callable(value) or hasattr(type(value), "__get__"))


def _text(value: Any) -> str:
    text = mask_text(json.dumps(_plain(value, _MAX_DEPTH), ensure_ascii=False, sort_keys=True), {})
    if len(text) <= _MAX_TEXT:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{text[:_MAX_TEXT]}… ({len(text)} characters, hash {digest})"


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON types, in an order that is the same in every process."""
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
    return _text_of_known_type(value) or _object_data(value, depth)


def _text_of_known_type(value: Any) -> str | None:
    """Return a text for a value of a well-known type, or ``None``."""
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


def _object_data(value: Any, depth: int) -> Any:
    """Return an object as its type and its attributes, or as its type alone if it has none."""
    name = f"<{type(value).__qualname__}>"
    attributes = getattr(value, "__dict__", None)
    if dataclasses.is_dataclass(value):  # including those with slots
        attributes = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if not attributes:
        return name
    data = {key: _plain(item, depth - 1) for key, item in sorted(attributes.items()) if not _CREDENTIAL.search(key)}
    return {name: data}
