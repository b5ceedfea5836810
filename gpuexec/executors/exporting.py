"""Gives a run's figures to other tools while it goes on: Prometheus, and NeMo Curator's performance reports."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.executor import BaseExecutor
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


@contextlib.contextmanager
def perf_records_for(executor: BaseExecutor, stages: Sequence[Any]) -> Iterator[list[Observer]]:
    """Record the calls of the stages in the block, if they were asked for, and yield the observers that do so.

    After the block the executor has the records; after an exception it has none, nor where they cannot be written.
    """
    executor._external_perf_records = None
    if not executor._stage_perf_collection_requested:
        yield []
        return
    from gpuexec.curator.perf_records import PerfRecordFile

    try:
        records = PerfRecordFile(stages)
    except OSError as error:
        from loguru import logger

        logger.warning("there are no performance records: there is no place for temporary files ({})", error)
        yield []
        return
    try:
        yield [records]
    except BaseException:
        records.discard()
        raise
    executor._external_perf_records = records.finish()
