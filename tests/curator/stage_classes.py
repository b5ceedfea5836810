"""Which stage classes an installed NeMo Curator has, read from its source: importing many of them needs a GPU."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

ROOTS = {"ProcessingStage", "CompositeStage"}


def installed_folder() -> Path:
    """Return the folder of the package, without importing it."""
    spec = importlib.util.find_spec("nemo_curator")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def stage_classes(package: Path) -> dict[str, set[str]]:
    """Return the names of stage classes by the name of their module, local classes included.

    A class is one of a stage if one of its bases is, as far as names tell.
    """
    defined = [found for path in sorted(package.rglob("*.py")) for found in _classes_in(path, package)]
    names = set(ROOTS)
    while more := {name for _, name, bases in defined if bases & names} - names:
        names |= more
    modules: dict[str, set[str]] = {}
    for module, name, bases in defined:
        if bases & names:
            modules.setdefault(module, set()).add(name)
    return modules


def _classes_in(path: Path, package: Path) -> Iterator[tuple[str, str, set[str]]]:
    module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield module, node.name, {_name_of(base) for base in node.bases}


def _name_of(base: ast.expr) -> str:
    """Return the last name of a base: of ``package.Base[Argument]`` it is ``Base``."""
    return ast.unparse(base).partition("[")[0].rpartition(".")[2]
