"""What torch says, asked in real processes. The torch here is a stand-in; tests/curator asks the real one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpuexec.doctor.facts import TorchDevice, TorchFacts
from gpuexec.doctor.readers.torch import read_torch

WORKS = """
import warnings
print("what a library prints is no answer")
__version__ = "2.9.0"
class version:
    cuda = "13.0"
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_device_capability = staticmethod(lambda index: (9, index))
    get_device_name = staticmethod(lambda index: f"H100 {index}")
    get_arch_list = staticmethod(lambda: ["sm_90"])
"""
BLIND = """
import warnings
__version__ = "2.9.0"
class version:
    cuda = "13.0"
class cuda:
    @staticmethod
    def is_available():
        warnings.warn("CUDA initialization: unknown error")
        return False
"""
SILENT = (
    BLIND.replace('warnings.warn("CUDA initialization: unknown error")', "pass")
    + """
    @staticmethod
    def init():
        raise RuntimeError("no CUDA driver found")
"""
)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    def ask(code: str, limit_s: float = 30.0) -> TorchFacts:
        (tmp_path / "torch.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        return read_torch(limit_s)

    return ask


def test_a_torch_that_sees_gpus(ask):
    devices = (TorchDevice("H100 0", (9, 0)), TorchDevice("H100 1", (9, 1)))
    assert ask(WORKS) == TorchFacts("2.9.0", "13.0", True, devices, ("sm_90",))


def test_a_torch_that_sees_none_says_why(ask):
    assert ask(BLIND) == TorchFacts("2.9.0", "13.0", problem="CUDA initialization: unknown error")
    assert ask(SILENT) == TorchFacts("2.9.0", "13.0", problem="no CUDA driver found")


def test_a_torch_that_cannot_be_imported(ask):
    facts = ask("import a_library_of_it")
    assert facts == TorchFacts(problem="torch cannot be imported: No module named 'a_library_of_it'")


def test_a_torch_that_takes_its_process_with_it(ask):
    facts = ask("import os, sys; print('about to die', file=sys.stderr, flush=True); os.abort()")
    assert facts.version is None
    assert facts.reason == "the process that was asked was killed by SIGABRT: about to die"


def test_a_torch_that_hangs(ask):
    facts = ask("import time; time.sleep(600)", limit_s=0.3)
    assert facts.reason == "there was no answer within 0.3 s"


def test_without_torch_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("gpuexec.doctor.readers.torch.Question", None)
    assert read_torch() == TorchFacts()


def test_the_script_needs_nothing_of_this_package():
    script = Path(__file__).parents[4] / "gpuexec/doctor/torch_probe.py"
    assert "import gpuexec" not in script.read_text()
    assert "from gpuexec" not in script.read_text()
