"""Serves a run's figures to Prometheus, if the options say so."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError

if TYPE_CHECKING:
    from gpuexec.events import Observer


@contextlib.contextmanager
def exporters_for(options: ExecutorConfig) -> Iterator[list[Observer]]:
    """Serve in the block, and yield the observers that get the run's events; none without ``prometheus_port``.

    Raises ``ConfigurationError`` if the port is not to be had or prometheus-client is not installed.
    """
    port = options.prometheus_port
    if port is None:
        yield []
        return
    try:
        prometheus = importlib.import_module("gpuexec.observe.prometheus")
    except ImportError as error:
        raise ConfigurationError(
            f"option 'prometheus_port' needs prometheus-client ({error}): pip install 'gpuexec[prometheus]'"
        ) from error
    exporter = prometheus.Exporter()
    try:
        server = prometheus.MetricsServer(port, exporter)
    except OSError as error:
        raise ConfigurationError(
            f"option 'prometheus_port': {prometheus.HOST}:{port} cannot be used ({os.strerror(error.errno or 0)}); "
            "another run, or another program, may have it: choose another port, or 0 for any that is free"
        ) from error
    try:
        from loguru import logger

        logger.info("metrics for Prometheus: http://{}:{}/metrics", prometheus.HOST, server.port)
        yield [exporter]
    finally:
        server.close()
