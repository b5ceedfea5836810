"""``gpuexec plan``: the workers that a run would have, and why, without starting any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gpuexec.cli.run import Options, Settings, Shard, Target, options_with_shard
from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.errors import ConfigurationError
from gpuexec.executors.target import load_pipeline
from gpuexec.hardware.model import Node


def plan(
    target: Target,
    node: Annotated[
        Path | None,
        typer.Option(
            help="Plan for the node in this file, made by `gpuexec gpus --json --full`. "
            "A file made without --full lists only GPUs, which count as installed in this host."
        ),
    ] = None,
    settings: Settings = [],  # noqa: B006 - typer makes a new list
    options: Options = [],  # noqa: B006
    shard: Shard = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object, with the grant of every worker.")
    ] = False,
) -> None:
    """Show how many workers each stage would get, on which CPUs and GPUs, and why; and the options of single stages."""
    import gpuexec
    from gpuexec.config import ExecutorConfig

    config = options_with_shard(parse_options(options), shard)
    ExecutorConfig.create(config)  # a wrong option is told before the target's imports, which may take long
    pipeline = load_pipeline(target, parse_settings(settings))
    made = gpuexec.plan(pipeline, config=config, node=_read_node(node) if node else None)
    if as_json:
        typer.echo(json.dumps(made.to_dict(), indent=2))
    else:
        Console().print(made)


def _read_node(path: Path) -> Node:
    from gpuexec.hardware.inventory import node_from_json

    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"--node {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"--node {path} is not JSON: {error}") from error
    return node_from_json(document)
