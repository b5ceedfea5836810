"""The Ray cluster of a run: one that this program has initialised, one at an address, or one that is started here."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError
from gpuexec.hardware.host import read_host

_CLIENT = "ray://"


def import_ray() -> Any:
    """Return Ray, imported with its telemetry off. Raises ``ConfigurationError`` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray warns of what a later version will do with a variable that is not set; this is what it will do.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigurationError(f"RayExecutor needs Ray Data ({error}): pip install 'gpuexec[ray]'") from error
    return ray


@contextlib.contextmanager
def connected(address: str | None, options: ExecutorConfig) -> Iterator[str]:
    """Be connected to Ray in the block; yield which one it is, in words. Only what was started here is shut down.

    ``address``: as for ``ray.init``: "auto", "local", or that of a cluster's head. ``None``: the Ray that this program
    has initialised, else $RAY_ADDRESS, else one that is started on this machine. Raises ``ConfigurationError``.
    """
    ray = import_ray()
    check_address(address)
    if ray.is_initialized():
        where = f"the Ray that this program has initialised ({ray.get_runtime_context().gcs_address})"
        if address is not None and address != ray.get_runtime_context().gcs_address:
            where += f"; address={address!r} is not used"
        _refuse_cpus(options, where)
        yield _logged(where)
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    starts = address == "local"
    if not starts:
        _refuse_cpus(options, f"the cluster at {address}")
    own = {"num_cpus": _local_cpus(options), "include_dashboard": False} if starts else {}
    try:
        ray.init(address=address, logging_level="warning", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"option 'address': Ray cannot be reached at {address!r}: {error}\n  `ray status` shows a cluster that "
            "runs; address='local' starts one on this machine"
        ) from error
    try:
        where = ray.get_runtime_context().gcs_address
        yield _logged(f"a Ray started on this machine for this run ({where})" if starts else f"the cluster at {where}")
    finally:
        ray.shutdown()


def check_address(address: str | None) -> None:
    """Raise ``ConfigurationError`` for an address that cannot be used, before Ray is imported."""
    if address is not None and (not isinstance(address, str) or not address.strip()):
        raise ConfigurationError(f"option 'address' must be text such as 'auto' or '10.0.0.1:6379', got {address!r}")
    if address is not None and address.startswith(_CLIENT):
        raise ConfigurationError(
            f"option 'address': {address!r} is of Ray's client, through which every task would pass twice: run the "
            "program on a node of the cluster, as with `ray job submit`, and give the address without ray://, or 'auto'"
        )


def _logged(where: str) -> str:
    from loguru import logger

    logger.info("RayExecutor runs on {}", where)
    return where


def _local_cpus(options: ExecutorConfig) -> int:
    cpus = (options.cpus or read_host().usable_cpus) - options.reserved_cpus
    if cpus < 1:
        raise ConfigurationError(
            f"option 'reserved_cpus'={options.reserved_cpus:g} leaves {cpus:g} CPUs, and Ray needs one at least"
        )
    return int(cpus)


def _refuse_cpus(options: ExecutorConfig, where: str) -> None:
    for name in ("cpus", "reserved_cpus"):
        if getattr(options, name):
            raise ConfigurationError(
                f"RayExecutor: option {name!r} is for a Ray that the executor starts, and this run uses {where}: leave "
                "it out, or start that Ray with --num-cpus"
            )
