"""The node as one value: read from this machine, or from a file that `gpuexec gpus --json` wrote."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any, TypeVar

from gpuexec.errors import ConfigurationError, NvmlUnavailable
from gpuexec.hardware import nvml, nvml_calls, nvml_errors
from gpuexec.hardware.host import read_host
from gpuexec.hardware.model import Gpu, Host, Node

T = TypeVar("T")


def read_node(first: Collection[int] = ()) -> Node:
    """Read this machine. Without a usable driver, ``gpus`` is empty and ``no_gpus_reason`` says why.

    ``first``: indices of the GPUs to read before the others, which may be stuck.
    """
    host = read_host()
    try:
        listing = nvml.list_gpus(first)
    except NvmlUnavailable as error:
        hang = nvml_calls.hung_call()
        reason = str(error) if hang is None else nvml_errors.with_remedy(str(error))
        return Node(host=host, no_gpus_reason=reason, hang=hang)
    return Node(
        host=host,
        gpus=tuple(_with_host_memory(gpu, host) if gpu.unified_memory else gpu for gpu in listing.gpus),
        links=listing.links,
        driver_version=listing.driver_version,
        cuda_version=listing.cuda_version,
        no_gpus_reason=None if listing.gpus else "the NVIDIA driver is loaded, but reports no GPU",
        hang=listing.hang,
    )


def node_to_json(node: Node) -> dict[str, Any]:
    """Return the node as JSON values; `node_from_json` reads it back."""
    return typing.cast(dict[str, Any], _plain(node))


def node_from_json(document: Any) -> Node:
    """Build a node from what `node_to_json` returned. Raises ``ConfigurationError`` that names the faulty entry.

    A bare list of GPUs is read as a node with this machine's host.
    """
    if isinstance(document, list):
        return Node(host=read_host(), gpus=tuple(_build(Gpu, gpu, f"[{i}]") for i, gpu in enumerate(document)))
    return _build(Node, document, "node")


def _with_host_memory(gpu: Gpu, host: Host) -> Gpu:
    """Give a GPU that shares the system's memory the sizes of that memory."""
    sizes = {"memory_total_bytes": host.memory_total_bytes, "memory_free_bytes": host.memory_available_bytes}
    return dataclasses.replace(
        gpu,
        memory_total_bytes=host.memory_total_bytes,
        memory_free_bytes=host.memory_available_bytes,
        unknown={field: reason for field, reason in gpu.unknown.items() if sizes.get(field) is None},
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _build(cls: type[T], document: Any, path: str) -> T:
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"node file: {path} must be an object, got {document!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(document) - set(fields))
    if unknown:
        raise ConfigurationError(f"node file: {path} has unknown key(s) {', '.join(unknown)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in document and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigurationError(f"node file: {path} lacks {', '.join(missing)}")
    return cls(**{name: _value(hints[name], item, f"{path}.{name}") for name, item in document.items()})


def _value(hint: Any, value: Any, path: str) -> Any:
    """Convert one JSON value to the type that the field declares."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and types.NoneType in options:
        return None
    (declared,) = [option for option in options if option is not types.NoneType]
    origin = typing.get_origin(declared) or declared
    if origin is tuple:
        return _tuple(typing.get_args(declared), value, path)
    if dataclasses.is_dataclass(origin):
        return _build(typing.cast(type, origin), value, path)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return _enum_member(origin, value, path)
    accepted = (int, float) if origin is float else origin
    if not isinstance(value, accepted) or (isinstance(value, bool) and origin is not bool):
        raise ConfigurationError(f"node file: {path} must be a {origin.__name__}, got {value!r}")
    return value


def _tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigurationError(f"node file: {path} must be a list, got {value!r}")
    hints = [items[0]] * len(value) if items[-1] is ... else list(items)
    if len(hints) != len(value):
        raise ConfigurationError(f"node file: {path} must have {len(hints)} values, got {len(value)}")
    return tuple(_value(hint, item, f"{path}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))


def _enum_member(cls: type[Enum], value: Any, path: str) -> Enum:
    members = {member.name.lower(): member for member in cls}
    if value not in members:
        raise ConfigurationError(f"node file: {path} must be one of {', '.join(members)}, got {value!r}")
    return members[value]
