"""``gpuexec plan``: the workers that a run would have, and why, without starting any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gpuexec.cli.run import Options, Settings, Shard, Target, options_with_shard
from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.errors import ConfigurationError
from gpuexec.executors.target import load_pipeline
from gpuexec.hardware.model import Node

if TYPE_CHECKING:
    from gpuexec.config import ExecutorConfig


def plan(
    target: Target,
    node: Annotated[
        Path | None,
        typer.Option(
            help="Plan for the node in this file, made by `gpuexec gpus --json --full`. "
            "A file made without --full lists only GPUs, which count as installed in this host."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="CLUSTER",
            help="Plan for RayExecutor on a cluster: the address of its head, auto for the one that runs here, a file "
            "nodes.json, or a made-up one such as 4x8gpu or 4x8gpu-80GB-64cpu.",
            show_default=False,
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer makes a new list
    options: Options = [],  # noqa: B006
    shard: Shard = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object, with the grant of every worker.")
    ] = False,
) -> None:
    """Show how many workers each stage would get, on which CPUs and GPUs, and why; and the options of single stages.

    With --cluster the exit status is 1 if a stage fits nowhere.
    """
    import gpuexec
    from gpuexec.config import ExecutorConfig

    config = options_with_shard(parse_options(options), shard)
    checked = ExecutorConfig.create(config)  # a wrong option is told before the target's imports, which may take long
    if cluster is not None:
        if node is not None:
            raise ConfigurationError("--node is about one node and --cluster about several: give one of them")
        _plan_cluster(target, cluster, checked, parse_settings(settings), as_json=as_json)
        return
    pipeline = load_pipeline(target, parse_settings(settings))
    made = gpuexec.plan(pipeline, config=config, node=_read_node(node) if node else None)
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=2))
    else:
        Console().print(made)


def _plan_cluster(
    target: str, cluster: str, options: ExecutorConfig, settings: dict[str, str], *, as_json: bool
) -> None:
    from gpuexec.executors.cluster_plan import plan_on_cluster, read_cluster

    nodes = read_cluster(cluster)
    made = plan_on_cluster(load_pipeline(target, settings), nodes, options)
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=2))
    else:
        Console().print(made)
    if made.plan.misfits:
        raise typer.Exit(1)


def _read_node(path: Path) -> Node:
    from gpuexec.hardware.inventory import node_from_json

    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"--node {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"--node {path} is not JSON: {error}") from error
    return node_from_json(document)
