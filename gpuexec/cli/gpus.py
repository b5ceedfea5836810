"""``gpuexec gpus``: the node's GPUs, and who holds them, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gpuexec.errors import GpuexecError, NvmlHangs
from gpuexec.hardware.model import Gpu, LinkKind, MigSlice, Node
from gpuexec.hardware.nvml_errors import with_remedy
from gpuexec.units import format_bytes

if TYPE_CHECKING:
    from gpuexec.hardware.lease_folder import LeaseFolder

_WIDE = 110  # columns from which a UUID fits on one line
_UUID_WIDTH = len("GPU-00000000-0000-0000-0000-000000000000")


def gpus(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the GPUs as a JSON list, which `gpuexec plan --node` reads.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="With --json: print the whole node as one object, with host, links and driver."),
    ] = False,
) -> None:
    """List the GPUs of this node. The status is 1 if the driver does not answer, and the list is incomplete."""
    from gpuexec.hardware.inventory import node_to_json, read_node
    from gpuexec.hardware.lease_folder import LeaseFolder
    from gpuexec.hardware.leases import node_with_leases

    if full and not as_json:
        raise typer.BadParameter("it requires --json", param_hint="--full")
    node = read_node()
    folder, problem = None, ""
    try:
        folder = LeaseFolder.open()
        node = node_with_leases(node, folder)
    except (GpuexecError, OSError, RuntimeError) as error:  # RuntimeError: no home directory
        problem = f"leases of gpuexec runs are not known: {error}"
    if as_json:
        document = node_to_json(node)
        typer.echo(json.dumps(document if full else document["gpus"], indent=2))
    else:
        _print(node, problem or _about_leases(node, folder))
    if node.hang is not None:
        raise NvmlHangs(node.no_gpus_reason or with_remedy(node.hang))


def _about_leases(node: Node, folder: LeaseFolder | None) -> str:
    """Say whose leases are listed, where that is not plain: of one user of many, or of one container."""
    from gpuexec.hardware.host import in_initial_pid_namespace

    if folder is None or folder.is_shared:
        return ""
    if not in_initial_pid_namespace():
        return (
            "in a container, only leases of runs that use the same folder are listed "
            f"({folder.path}); GPUEXEC_LEASE_DIR names a folder to share"
        )
    if any(gpu.leases or any(mig.leases for mig in gpu.mig_slices) for gpu in node.gpus):
        return "leases of this user's runs; GPUEXEC_LEASE_DIR names a folder for those of all users"
    return ""


def _print(node: Node, about_leases: str = "") -> None:
    if not node.gpus:
        if node.hang is None:
            typer.echo(f"no GPU: {node.no_gpus_reason}")
        return
    console = Console()
    if console.width >= _WIDE:
        console.print(gpu_table(node))
    else:
        for line in gpu_lines(node):
            console.print(line, markup=False, highlight=False)
    for line in (*unknown_lines(node), *filter(None, [about_leases])):
        console.print(line, style="dim", markup=False, highlight=False)


def unknown_lines(node: Node) -> list[str]:
    """Return lines that say why readings are missing, one line for all GPUs with the same reason."""
    gpus_by_gap: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for gpu in node.gpus:
        for reason in dict.fromkeys(gpu.unknown.values()):
            fields = tuple(field for field, field_reason in gpu.unknown.items() if field_reason == reason)
            gpus_by_gap.setdefault((fields, reason), []).append(gpu.index)
    return [
        f"GPU {', '.join(map(str, indices))}: {', '.join(fields)} unknown: {reason}"
        for (fields, reason), indices in gpus_by_gap.items()
    ]


def gpu_lines(node: Node) -> Iterator[str]:
    """Yield a few lines per GPU and MIG slice, for terminals too narrow for the table."""
    yield f"driver {node.driver_version or '?'}, CUDA {node.cuda_version or '?'}"
    for gpu in node.gpus:
        yield from _described(*_gpu_row(node, gpu))
        for mig in gpu.mig_slices:
            yield from _described(*_slice_row(gpu, mig))


def _described(*cells: str) -> Iterator[str]:
    index, name_and_uuid, total, used, free, load, numa, closest, processes, leases = cells
    name, _, uuid = name_and_uuid.partition("\n")
    place = [f"{label} {value}" for label, value in (("NUMA", numa), ("closest", closest)) if value]
    yield ", ".join([f"{index:>3}  {name}", *place])
    indent = " " * 5
    yield f"{indent}{uuid}"
    yield f"{indent}{used} of {total} used, {free} free{f', load {load}' if load else ''}"
    yield from (indent + ("processes unknown" if process == "?" else process) for process in processes.splitlines())
    yield from (f"{indent}leased: {lease}" for lease in leases.splitlines())


def gpu_table(node: Node) -> Table:
    """Return a table with a row per GPU, followed by a row per MIG slice."""
    table = Table(title=f"driver {node.driver_version or '?'}, CUDA {node.cuda_version or '?'}", title_justify="left")
    table.add_column("GPU", justify="right")
    table.add_column("name\nUUID", overflow="fold", min_width=_UUID_WIDTH)
    for heading in ("memory", "used", "free", "load"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("NUMA", justify="right")
    table.add_column("closest")
    table.add_column("processes", overflow="fold")
    rows = [row for gpu in node.gpus for row in (_gpu_row(node, gpu), *(_slice_row(gpu, m) for m in gpu.mig_slices))]
    if any(row[-1] for row in rows):
        table.add_column("leased", overflow="fold")
    for row in rows:
        table.add_row(*row[: len(table.columns)])
    return table


def _gpu_row(node: Node, gpu: Gpu) -> list[str]:
    name = gpu.name or "?"
    marks = [mark for mark, is_set in (("lost", gpu.lost), ("unified memory", gpu.unified_memory)) if is_set]
    return [
        str(gpu.index),
        f"{name}{' (' + ', '.join(marks) + ')' if marks else ''}\n{gpu.uuid or '?'}",
        _size(gpu.memory_total_bytes),
        _size(gpu.memory_used_bytes),
        _size(gpu.memory_free_bytes),
        "?" if gpu.utilization_percent is None else f"{gpu.utilization_percent} %",
        "?" if gpu.numa_node is None else str(gpu.numa_node),
        _closest(node, gpu),
        _processes(gpu),
        _leases(gpu),
    ]


def _slice_row(gpu: Gpu, mig: MigSlice) -> list[str]:
    return [
        f"{gpu.index}.{mig.index}",
        f"MIG {mig.profile or '?'}\n{mig.uuid}",
        _size(mig.memory_total_bytes),
        _size(mig.memory_used_bytes),
        _size(mig.memory_free_bytes),
        "",
        "",
        "",
        _processes(mig),
        _leases(mig),
    ]


def _closest(node: Node, gpu: Gpu) -> str:
    from gpuexec.hardware.topology import closest_to

    closest = closest_to(node, gpu)
    if not closest:
        return "" if len(node.gpus) == 1 else "?"
    link = closest[0][1]
    name = f"NVLink ×{link.nvlinks}" if link.kind is LinkKind.NVLINK else link.kind.name.lower().replace("_", " ")
    are_all_others = len(closest) == len(node.gpus) - 1 > 1
    return f"{'all' if are_all_others else ', '.join(str(index) for index, _ in closest)} ({name})"


def _processes(owner: Gpu | MigSlice) -> str:
    if owner.processes is None:
        return "?"
    return "\n".join(f"{p.pid} {p.name or ''} {_size(p.used_bytes)}".replace("  ", " ") for p in owner.processes)


def _leases(owner: Gpu | MigSlice) -> str:
    return "\n".join(f"{lease} by {lease.holder}" for lease in owner.leases)


def _size(size: int | None) -> str:
    return "?" if size is None else format_bytes(size)
