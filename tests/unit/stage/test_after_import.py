"""Actions that follow the import of a module, however it is found."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gpuexec.stage.after_import import after_import


@pytest.fixture
def module(tmp_path: Path, monkeypatch) -> str:
    (tmp_path / "imported_later.py").write_text("names = ['its own']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "imported_later", raising=False)
    return "imported_later"


def test_it_follows_the_modules_own_code_once(module: str):
    finders = list(sys.meta_path)
    after_import(module, lambda found: found.names.append("the action's"))
    import json  # noqa: F401 - another module

    assert importlib.import_module(module).names == ["its own", "the action's"]
    assert sys.meta_path == finders
    importlib.import_module(module)
    assert sys.modules[module].names == ["its own", "the action's"]


def test_a_module_that_is_there_is_acted_on_at_once(module: str):
    importlib.import_module(module)
    after_import(module, lambda found: found.names.append("at once"))
    assert sys.modules[module].names == ["its own", "at once"]


def test_what_it_raises_the_import_raises(module: str):
    def refuse(_found: object) -> None:
        raise ValueError("no")

    after_import(module, refuse)
    with pytest.raises(ValueError, match="no"):
        importlib.import_module(module)
    assert module not in sys.modules


def test_a_module_that_does_not_exist_is_still_not_found(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    after_import("is_not_there", print)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("is_not_there")
