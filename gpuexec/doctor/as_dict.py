"""An examination as plain values, which JSON can carry. docs/doctor.md describes it."""

from __future__ import annotations

from typing import Any

from gpuexec._version import __version__
from gpuexec.doctor.model import SEVERITY, Examination, Finding, Result
from gpuexec.report.as_dict import plain

SCHEMA = "gpuexec-doctor/1"


def examination_as_dict(examination: Examination) -> dict[str, Any]:
    """Return an examination in the schema `SCHEMA`; what is not known is ``None``."""
    facts = examination.facts
    return {
        "schema": SCHEMA,
        "gpuexec": __version__,
        "hostname": facts.driver.node.host.hostname,
        "target": facts.target.name if facts.target is not None else None,
        "outcome": examination.outcome.value,
        "exit_status": examination.exit_status,
        "counts": {outcome.value: examination.count(outcome) for outcome in SEVERITY},
        "checks": [_result(result) for result in examination.results],
        "facts": plain(facts),
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "name": result.check.name,
        "topic": result.check.topic.value,
        "outcome": result.outcome.value,
        "findings": [_finding(finding) for finding in result.findings],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "outcome": finding.outcome.value,
        "found": finding.found,
        "gpus": list(finding.gpus),
        "remedy": finding.command or None,
        "advice": finding.advice or None,
    }
