"""How long a run may take that is interrupted. That it ends is tested with processes, which a loaded machine delays."""

from __future__ import annotations

from gpuexec.core import termination
from gpuexec.driver import shutdown


def test_an_interrupted_run_gives_its_workers_less_than_5_s():
    assert shutdown._DRAIN_S + shutdown._TEARDOWN_S + termination.STACKS_S < 5
