"""The nodes of a cluster that is running: what they have, and whether they can run this version of gpuexec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gpuexec._version import __version__
from gpuexec.errors import ConfigurationError
from gpuexec.planning.cluster import ClusterNode
from gpuexec.records import Record

_PROBE_TIMEOUT_S = 120.0  # a node's first worker process may have to be started


class RayNode(Record):
    """A node by Ray's id, and as the planner sees it."""

    node_id: str
    node: ClusterNode


def read_nodes(*, ignore_head_node: bool = False) -> list[RayNode]:
    """Return the nodes that are alive. Raises ``ConfigurationError`` for one that cannot run this program.

    A process on each node says which version of gpuexec is there, and, if it has GPUs, how large they are.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if ignore_head_node:
        alive = [node for node in alive if "node:__internal_head__" not in node["Resources"]]
    if not alive:
        raise ConfigurationError("the cluster has no node to run on" + (" beside its head" if ignore_head_node else ""))
    answers = _ask(alive)
    names = [node["NodeManagerHostname"] for node in alive]
    nodes = []
    for facts, name, (version, memory) in zip(alive, names, answers, strict=True):
        if version != __version__:
            raise ConfigurationError(
                f"node {name!r} has gpuexec {version}, and this program {__version__}: install the same on all nodes"
            )
        resources = facts["Resources"]
        unique = name if names.count(name) == 1 else f"{name}-{facts['NodeID'][:6]}"
        node = ClusterNode(unique, float(resources.get("CPU", 0.0)), int(resources.get("GPU", 0)), memory)
        nodes.append(RayNode(facts["NodeID"], node))
    return nodes


def on_node(node_id: str) -> NodeAffinitySchedulingStrategy:
    """Return the strategy that runs something on this node and on no other."""
    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def end_processes(processes: Sequence[tuple[str, int]]) -> None:
    """Kill processes, given by Ray's id of their node and their pid. Does not wait."""
    kill: Any = ray.remote(num_cpus=0, max_retries=0)(_kill)
    for node_id in {node for node, _ in processes}:
        kill.options(scheduling_strategy=on_node(node_id)).remote([pid for node, pid in processes if node == node_id])


def _ask(alive: Sequence[dict[str, Any]]) -> list[tuple[str, int | None]]:
    probe: Any = ray.remote(num_cpus=0, max_retries=1)(_probe)
    refs = [
        probe.options(scheduling_strategy=on_node(node["NodeID"])).remote(bool(node["Resources"].get("GPU")))
        for node in alive
    ]
    answers = []
    for node, ref in zip(alive, refs, strict=True):
        try:
            answers.append(ray.get(ref, timeout=_PROBE_TIMEOUT_S))
        except ray.exceptions.RayError as error:
            raise ConfigurationError(
                f"node {node['NodeManagerHostname']!r} cannot run gpuexec ({type(error).__name__}): install the same "
                f"version ({__version__}) on all nodes\n{error}"
            ) from error
    return answers


def _probe(has_gpus: bool) -> tuple[str, int | None]:
    """Run on a node: return the version of gpuexec there, and the size of its smallest GPU, if that can be read."""
    if not has_gpus:
        return __version__, None
    from gpuexec.hardware.inventory import read_node

    sizes = [gpu.memory_total_bytes for gpu in read_node().gpus]
    known = [size for size in sizes if size is not None]
    return __version__, min(known) if known and len(known) == len(sizes) else None


def _kill(pids: Sequence[int]) -> None:
    import contextlib
    import signal

    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
