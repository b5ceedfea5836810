"""Clusters in words: ``4x8gpu`` and the like, and files that list nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.planning.cluster import ClusterNode
from gpuexec.units import GIB

CPUS_PER_GPU = 8
CPUS_WITHOUT_GPU = 8
_MOST_NODES = 100_000
_SHAPE = re.compile(r"(?P<nodes>\d+)x(?P<gpus>\d+)gpu(?:-(?P<memory>\d+(?:\.\d+)?)gb)?(?:-(?P<cpus>\d+(?:\.\d+)?)cpu)?")
_KEYS = {"name", "cpus", "gpus", "gpu_memory_gb", "count"}


def nodes_from_shape(text: str) -> tuple[ClusterNode, ...] | None:
    """Return the nodes that ``4x8gpu``, ``4x8gpu-80GB`` or ``2x0gpu-32cpu`` stand for; ``None`` for another text.

    Without a number of CPUs, a node has 8 for each GPU, and 8 if it has no GPU. The GPUs' size (in GiB) is unknown
    unless it is written. Raises ``ConfigurationError`` for a cluster of no nodes.
    """
    match = _SHAPE.fullmatch(text.strip().lower())
    if match is None:
        return None
    count, gpus = int(match["nodes"]), int(match["gpus"])
    if not 0 < count <= _MOST_NODES:
        raise ConfigurationError(f"--cluster {text!r}: a cluster has 1 to {_MOST_NODES:,} nodes")
    cpus = float(match["cpus"]) if match["cpus"] else float(gpus * CPUS_PER_GPU or CPUS_WITHOUT_GPU)
    memory = round(float(match["memory"]) * GIB) if match["memory"] else None
    return tuple(ClusterNode(f"node{i}", cpus, gpus, memory) for i in range(count))


def nodes_from_json(document: Any) -> tuple[ClusterNode, ...]:
    """Return the nodes that a JSON document lists. Raises ``ConfigurationError`` that names the faulty entry.

    An entry has ``cpus``, and if need be ``gpus``, ``gpu_memory_gb`` (GiB of each), ``name`` and ``count`` (how many
    alike); or it is what ``gpuexec gpus --json --full`` prints on a node.
    """
    entries = document.get("nodes") if isinstance(document, Mapping) else document
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ConfigurationError(
            'cluster file: it must be a list of nodes, such as [{"count": 4, "cpus": 64, "gpus": 8}]'
        )
    nodes: list[ClusterNode] = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise ConfigurationError(f"cluster file: [{position}] must be an object, got {entry!r}")
        nodes += [_from_node_file(entry)] if "host" in entry else _from_entry(entry, position)
    return _with_unique_names(nodes)


def _from_entry(entry: Mapping[str, Any], position: int) -> list[ClusterNode]:
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise ConfigurationError(f"cluster file: [{position}] has unknown key(s) {', '.join(unknown)}")
    cpus = _number(entry, "cpus", position, required=True)
    gpus, count = _number(entry, "gpus", position) or 0, _number(entry, "count", position)
    memory = _number(entry, "gpu_memory_gb", position)
    for key, value in (("gpus", gpus), ("count", count if count is not None else 1)):
        if value != int(value):
            raise ConfigurationError(f"cluster file: [{position}].{key} must be a whole number, got {value!r}")
    if count is not None and not 0 < count <= _MOST_NODES:
        raise ConfigurationError(f"cluster file: [{position}].count must be 1 to {_MOST_NODES:,}, got {count!r}")
    name = str(entry.get("name") or f"node{position}")
    node = ClusterNode(name, cpus or 0.0, int(gpus), round(memory * GIB) if memory else None)
    return [node] * int(count or 1)


def _number(entry: Mapping[str, Any], key: str, position: int, *, required: bool = False) -> float | None:
    value = entry.get(key)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigurationError(f"cluster file: [{position}].{key} must be a number >= 0, got {value!r}")
    return float(value)


def _from_node_file(document: Mapping[str, Any]) -> ClusterNode:
    from gpuexec.hardware.inventory import node_from_json

    node = node_from_json(document)
    sizes = [gpu.memory_total_bytes for gpu in node.gpus]
    known = [size for size in sizes if size is not None]
    return ClusterNode(
        node.host.hostname,
        node.host.usable_cpus,
        len(node.gpus),
        min(known) if known and len(known) == len(sizes) else None,
    )


def _with_unique_names(nodes: Sequence[ClusterNode]) -> tuple[ClusterNode, ...]:
    names = [node.name for node in nodes]
    if len(set(names)) == len(names):
        return tuple(nodes)
    return tuple(
        ClusterNode(f"{node.name}-{i}", node.cpus, node.gpus, node.gpu_memory_bytes) for i, node in enumerate(nodes)
    )
