"""Installed packages, over folders that look like those of pip."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gpuexec.doctor.readers.packages import read_packages


def install(folder: Path, name: str, version: str, *requires: str, module: str = "", extras: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    lines += [f"Provides-Extra: {extras}"] if extras else []
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n" if module else "")
    if module:
        (folder / module).mkdir()
        (folder / module / "__init__.py").touch()


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of packages, in place of those of this environment."""
    for used in ("packaging.requirements", "packaging.utils"):
        importlib.import_module(used)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(entry for entry in sys.path if "site-packages" not in entry)])
    importlib.invalidate_caches()
    return tmp_path


def test_the_usual_ones_and_those_of_the_modules(site):
    install(site, "torch", "2.9.0")
    install(site, "My-Models", "1.2", module="my_models")
    install(site, "unrelated", "3")
    assert read_packages().versions == {"torch": "2.9.0"}
    assert read_packages(["my_models.embed", "os"]).versions == {"my-models": "1.2", "torch": "2.9.0"}


def test_requirements_that_are_not_met(site):
    install(
        site,
        "torch",
        "2.9.0",
        "numpy>=2",
        "absent>1",
        'never; python_version < "3"',
        'optional; extra == "x"',
        "not a requirement at all",
        extras="x",
    )
    install(site, "numpy", "1.26.4")
    assert read_packages().conflicts == (("torch", "numpy>=2", "1.26.4"), ("torch", "absent>1", "not installed"))


def test_of_gpuexec_extras_count_where_they_are_installed(site):
    install(
        site,
        "gpuexec",
        "0.1.0",
        'nemo-curator==1.4.0; extra == "curator"',
        'other; extra == "curator"',
        extras="curator",
    )
    assert read_packages().conflicts == ()
    install(site, "nemo-curator", "1.3.0")
    assert read_packages().conflicts == (("gpuexec", "nemo-curator==1.4.0", "1.3.0"),)


def test_this_environment():
    found = read_packages(["hypothesis.strategies"])
    assert found.versions["hypothesis"]
    assert {"gpuexec", "nvidia-ml-py"} <= set(found.versions)
    assert [conflict for conflict in found.conflicts if conflict[0] == "gpuexec"] == []
