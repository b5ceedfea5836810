"""Which modules a worker could not import."""

from __future__ import annotations

import importlib.util
import sys
from fractions import Fraction
from types import ModuleType, SimpleNamespace

import cloudpickle
import pytest

from gpuexec.channel import own_modules
from gpuexec.channel.own_modules import send_own_modules_by_value
from tests.process.stages import Apply, items


@pytest.fixture(autouse=True)
def _registers_nothing_for_others(monkeypatch):
    monkeypatch.setattr(cloudpickle.cloudpickle, "_PICKLE_BY_VALUE_MODULES", set())
    yield
    own_modules._can_be_imported.cache_clear()


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> ModuleType:
    """A module whose name leads nowhere."""
    path = tmp_path / "plugin.py"
    path.write_text("class Mine: pass\ndef function(): pass\n")
    spec = importlib.util.spec_from_file_location("loaded_by_path", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "loaded_by_path", module)
    spec.loader.exec_module(module)
    return module


def by_value() -> set[str]:
    return cloudpickle.list_registry_pickle_by_value()


def test_modules_that_can_be_imported_stay_as_they_are():
    send_own_modules_by_value([Apply(abs), *items(1), Fraction(1), SimpleNamespace(a=Fraction(2), b=cloudpickle.dumps)])
    assert not by_value()


@pytest.mark.parametrize(
    "holds", [lambda m: m.Mine(), lambda m: Apply(m.function), lambda m: SimpleNamespace(a=m.Mine)]
)
def test_a_module_that_was_loaded_by_its_path_goes_by_value(plugin, holds):
    send_own_modules_by_value([holds(plugin)])
    assert by_value() == {"loaded_by_path"}


def test_so_does_one_inside_a_package(plugin, monkeypatch):
    monkeypatch.setitem(sys.modules, "tests.loaded_by_path", plugin)
    plugin.__name__ = plugin.Mine.__module__ = "tests.loaded_by_path"
    send_own_modules_by_value([plugin.Mine()])
    assert by_value() == {"tests.loaded_by_path"}


def test_a_module_that_a_library_makes_stays_as_it_is(plugin, monkeypatch):
    """As ``six.moves`` does: its parent is no package, and makes it when it is imported."""
    monkeypatch.setitem(sys.modules, "tests.process.waiting.made", plugin)
    plugin.__name__ = plugin.Mine.__module__ = "tests.process.waiting.made"
    send_own_modules_by_value([plugin.Mine()])
    assert not by_value()


def test_the_main_module_of_a_spawned_process_goes_by_value(monkeypatch):
    monkeypatch.setitem(sys.modules, "__mp_main__", ModuleType("__mp_main__"))
    send_own_modules_by_value([])
    assert by_value() == {"__mp_main__"}


def test_a_second_name_of_the_main_module_changes_nothing(monkeypatch):
    """multiprocessing gives it one in every process that imports it."""
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    send_own_modules_by_value([])
    assert not by_value()
