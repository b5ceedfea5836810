"""Which samples show that a worker holds more than its share."""

from __future__ import annotations

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.core.stage import StageSpec, StageState
from gpuexec.core.worker import Worker
from gpuexec.driver.share_watch import ShareWatch
from gpuexec.hardware.process_readings import ProcessSample
from gpuexec.planning.model import WorkerGrant
from gpuexec.policies import ShareEnforcement
from gpuexec.units import GIB


def worker(enforcement: ShareEnforcement, fraction: float = 0.25) -> Worker:
    """A worker of the stage "embed" on a GPU of 80 GiB."""
    share = GpuShare(0, "GPU-a", "GPU", fraction, int(80 * fraction) * GIB, 80 * GIB)
    spec = StageSpec(0, "embed", 1, b"", share_enforcement=enforcement)
    return Worker(0, "embed-0", WorkerGrant("embed-0", 0, Allocation((share,))), StageState(spec), 0.0)


def told(held: tuple[tuple[str, int], ...] | None, enforcement: ShareEnforcement, fraction: float = 0.25) -> list[str]:
    samples = [ProcessSample("embed-0", 1, None, None, held, {}), ProcessSample("driver", 2, None, None, held, {})]
    watch, workers = ShareWatch(), {"embed-0": worker(enforcement, fraction)}
    first = list(watch.notices(samples, workers))
    assert list(watch.notices(samples, workers)) == [], "once is enough"
    return first


def test_more_than_the_share_is_told_with_what_follows():
    (notice,) = told((("GPU-a", 21 * GIB),), ShareEnforcement.AUTO)
    assert "'embed-0' holds 21.00 GiB of GPU 0, more than its share of 20.00 GiB: others on that GPU" in notice
    assert "Resources(gpu_memory_gb=21)" in notice
    assert "its batch fails" in told((("GPU-a", 21 * GIB),), ShareEnforcement.STRICT)[0]


def test_what_is_not_told():
    assert told((("GPU-a", 20 * GIB),), ShareEnforcement.STRICT) == []
    assert told((("GPU-b", 21 * GIB),), ShareEnforcement.STRICT) == []
    assert told((("GPU-a", 21 * GIB),), ShareEnforcement.OFF) == []
    assert told((("GPU-a", 81 * GIB),), ShareEnforcement.STRICT, fraction=1.0) == []
    assert told(None, ShareEnforcement.STRICT) == []
