"""``gpuexec plan``: the workers that a run would have, and why, without starting any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gpuexec.cli.plan_view import render_plan
from gpuexec.cli.run import Options, Settings, Target
from gpuexec.cli.target import load_pipeline, parse_options, parse_settings
from gpuexec.errors import ConfigurationError
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
) -> None:
    """Show how many workers each stage would get, on which CPUs and GPUs, and why; and the options of single stages."""
    from gpuexec.config import ExecutorConfig
    from gpuexec.executors.prepare import prepare
    from gpuexec.executors.stage_options import own_options

    config = ExecutorConfig.create(parse_options(options))
    pipeline = load_pipeline(target, parse_settings(settings))
    pipeline.build()
    prepared = prepare(
        pipeline.stages,
        config,
        node=_read_node(node) if node else None,
        fuses=True,
        has_checkpoint=config.checkpoint is not None,
    )
    for part in render_plan(prepared.plan, prepared.node, [d.name for d in prepared.demands], prepared.groups):
        Console().print(part)
    for stage in prepared.stages:
        own = own_options(stage, config)
        if own:
            shown = ", ".join(f"{name}={value!r}" for name, value in own.items())
            Console().print(Text(f"stage {stage.name!r}, options of its own: {shown}"))


def _read_node(path: Path) -> Node:
    from gpuexec.hardware.inventory import node_from_json

    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"--node {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"--node {path} is not JSON: {error}") from error
    return node_from_json(document)
