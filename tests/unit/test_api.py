"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpuexec

ROOT = Path(__file__).parents[2]
PACKAGE = Path(gpuexec.__file__).parent  # elsewhere if these tests are those of the sdist


def test_every_public_name_is_there_and_sorted():
    assert gpuexec.__all__ == sorted(gpuexec.__all__)
    for name in gpuexec.__all__:
        assert getattr(gpuexec, name) is not None
    assert dir(gpuexec) == gpuexec.__all__


def test_type_checkers_see_the_same_names():
    """They read the imports under TYPE_CHECKING, which never run."""
    source = Path(gpuexec.__file__).read_text()
    for_checkers = re.findall(r"^ {4}from gpuexec\.(\S+) import (\w+) as \2$", source, re.MULTILINE)
    assert {name: home for home, name in for_checkers} == gpuexec._HOME_OF


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'LocalExecuter'"):
        gpuexec.LocalExecuter  # noqa: B018


def loaded_by(code: str) -> set[str]:
    code += "; import sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"pynvml", "ray", "nemo_curator", "torch", "loguru", "rich", "typer", "psutil", "cloudpickle", "numpy"}


def test_importing_the_package_imports_nothing_else():
    loaded = loaded_by("import gpuexec")
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("gpuexec")} == {"gpuexec", "gpuexec._version"}


def test_the_public_names_load_no_nvml_ray_or_curator():
    assert not HEAVY & loaded_by("from gpuexec import *")


def test_the_version_is_semantic_and_in_the_changelog():
    assert re.fullmatch(r"\d+\.\d+\.\d+", gpuexec.__version__)
    assert "## " in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").exists()


# Forks for each module, so each is the first of gpuexec's in its process; what they import of others is there already.
IMPORT_EACH_ALONE = """
import importlib, json, os, sys, traceback
import cloudpickle, loguru, psutil, pynvml, rich.console, rich.live, rich.table, typer
failed = {}
for name in sys.argv[1:]:
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            os.write(writable, traceback.format_exc().encode()[-4096:])
        os._exit(0)
    os.close(writable)
    with open(readable) as pipe:
        error = pipe.read()
    _, status = os.waitpid(pid, 0)
    if error or status:
        failed[name] = error or f"wait status {status}"
print(json.dumps(failed))
"""
SOURCES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


NAMES = list(SOURCES)


@pytest.mark.parametrize(
    "names",
    [pytest.param(NAMES[::8], id="every eighth"), pytest.param(NAMES, id="all", marks=pytest.mark.exhaustive)],
)
def test_every_module_imports_alone(names: list[str]):
    command = [sys.executable, "-c", IMPORT_EACH_ALONE, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    failed = {
        name: error
        for name, error in json.loads(done.stdout).items()
        # Ray is in the environment of scripts/test-ray only.
        if not (name.startswith("gpuexec.executors.ray.") and "No module named 'ray'" in error)
    }
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())


@pytest.mark.parametrize("name", SOURCES)
def test_every_module_says_what_it_is_and_is_short(name: str):
    source = SOURCES[name].read_text()
    assert ast.get_docstring(ast.parse(source)) or name == "gpuexec._version"
    assert len(source.splitlines()) <= 400
