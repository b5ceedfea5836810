"""The JSON object, and what docs/doctor.md says of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gpuexec.doctor.as_dict import SCHEMA, examination_as_dict
from gpuexec.doctor.catalogue import CHECKS
from gpuexec.doctor.model import examine
from tests.unit.doctor.sample_facts import facts, of_gpu

PAGE = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")


def document(**changes):
    return json.loads(json.dumps(examination_as_dict(examine(facts(**changes), CHECKS)), allow_nan=False))


def test_a_problem():
    found = document(**of_gpu(ecc_uncorrected=2))
    assert (found["schema"], found["outcome"], found["exit_status"]) == ("gpuexec-doctor/1", "fail", 2)
    assert found["counts"] == {"fail": 1, "warn": 0, "could not run": 0, "pass": len(CHECKS) - 1}
    (ecc,) = [check for check in found["checks"] if check["name"] == "ecc"]
    assert ecc["outcome"] == "fail"
    assert ecc["findings"] == [
        {
            "outcome": "fail",
            "found": "2 uncorrected memory error(s)",
            "gpus": [1],
            "remedy": "sudo nvidia-smi --gpu-reset -i 1",
            "advice": "End what uses the GPU first; where it cannot be reset, as with a display attached, reboot",
        },
        {"outcome": "pass", "found": "no uncorrected errors", "gpus": [0], "remedy": None, "advice": None},
    ]
    assert found["facts"]["driver"]["health"]["gpus"][1]["ecc_uncorrected"] == 2


def test_the_page_describes_every_field():
    found = document()
    section = PAGE.partition("## As JSON")[2]
    described = set(re.findall(r"`(?:checks\[\]\.findings\[\]\.|\.)?(\w+)(?:\[\])?`", section))
    assert set(found) <= described
    assert set(found["checks"][0]) <= described
    assert set(found["checks"][0]["findings"][0]) <= described
    assert SCHEMA in section


def test_environment_variables_that_do_not_matter_are_not_in_it():
    assert set(document()["facts"]["variables"]) == set()
