"""The catalogue of XIDs, and the faults of a run that follow from it."""

from __future__ import annotations

from gpuexec.hardware.nvml_events import CONDEMNING_XIDS, SURVIVABLE_XIDS
from gpuexec.hardware.xids import XIDS, Advice

MILD = {Advice.IGNORE, Advice.RESTART_APP, Advice.WORKFLOW_XID_45, Advice.XID_154}


def test_every_number_is_an_xid_of_the_catalogue():
    assert min(XIDS) >= 1
    assert max(XIDS) <= 172
    assert all(xid.what for xid in XIDS.values())


def test_runs_judge_as_nvidia_advises():
    assert not [n for n in CONDEMNING_XIDS if XIDS[n].advice in MILD]
    against_advice = [n for n in SURVIVABLE_XIDS if XIDS[n].advice not in MILD]
    assert against_advice == [109], "as in NVIDIA's device plugin; nvml_events says so"
