"""The present code of a script whose classes travelled with a capsule.

Classes of ``__main__`` are pickled with their code, so a capsule holds them as they were. Whoever mends the script and
replays the batch wants the mended code. It is read from the script: its imports, definitions and assignments are
executed, and nothing else, so that the script does not start its own run.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_MODULE = "gpuexec_replayed_script"
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_ASSIGNMENTS = (ast.Assign, ast.AnnAssign)


def renew(stage: Any, tasks: list[Any], script_path: str | None) -> str | None:
    """Give a stage and its tasks the present code of the script they come from, the one at ``script_path``.

    Return which code it is now, in words; ``None`` if none of it comes from a script.
    """
    if not _comes_from_a_script(stage):
        return None
    if script_path is None:
        return "the code is that of the run, as the capsule holds it: it came from no file, as in a notebook"
    script = Path(script_path)
    if not script.is_file():
        return f"{script} is not here, so the code is that of the run, as the capsule holds it"
    try:
        module = _definitions_in(script)
        _renew(stage, module)
        for task in tasks:
            _renew(task, module, must=False)
    except Exception as error:  # noqa: BLE001 - whatever the script raises, the capsule has code that can run
        why = f"{type(error).__name__}: {error}"
        return f"the present code of {script} cannot be used ({why}), so the code is that of the run"
    return f"the code is that of {script} as it is now, not as it was in the run (--old-code takes that)"


def _comes_from_a_script(stage: Any) -> bool:
    """Whether the class of the stage, or a function that it holds, was defined in ``__main__``."""
    held = [value for value in getattr(stage, "__dict__", {}).values() if isinstance(value, FunctionType)]
    return any(definition.__module__ == "__main__" for definition in (type(stage), *held))


def _definitions_in(script: Path) -> ModuleType:
    from gpuexec.stage.loading import loading_stage

    tree = ast.parse(script.read_bytes(), str(script))
    module = ModuleType(_MODULE)
    module.__file__ = str(script)
    sys.modules[_MODULE] = module  # dataclasses look up the module of their class
    with loading_stage():
        for statement in tree.body:
            if isinstance(statement, _DEFINITIONS):
                _execute(statement, module, script)
            elif isinstance(statement, _ASSIGNMENTS):
                try:
                    _execute(statement, module, script)
                except Exception:  # noqa: BLE001, S112 - a result of the run, for example; what needs it will tell
                    continue
    return module


def _execute(statement: ast.stmt, module: ModuleType, script: Path) -> None:
    code = compile(ast.Module([statement], []), str(script), "exec", dont_inherit=True, flags=_flags(module))
    exec(code, module.__dict__)  # noqa: S102 - it is the user's own script, whose older code the capsule would run


def _flags(module: ModuleType) -> int:
    """Return the compiler's flags for the ``from __future__`` imports so far."""
    import __future__

    found = (getattr(module, name, None) for name in __future__.all_feature_names)
    return sum(f.compiler_flag for f in found if isinstance(f, __future__._Feature))


def _renew(value: Any, module: ModuleType, *, must: bool = True) -> None:
    """Replace the class of an object, and the functions that it holds, by those of the same name."""
    cls = type(value)
    if cls.__module__ == "__main__":
        present = _named(module, cls.__qualname__)
        if isinstance(present, type):
            value.__class__ = present
        elif must:
            raise LookupError(f"it has no class {cls.__qualname__}")
    for name, held in list(getattr(value, "__dict__", {}).items()):
        if isinstance(held, FunctionType) and held.__module__ == "__main__":
            present = _named(module, held.__qualname__)
            if isinstance(present, FunctionType):
                setattr(value, name, present)


def _named(module: ModuleType, qualified_name: str) -> Any:
    found: Any = module
    for part in qualified_name.split("."):
        found = getattr(found, part, None)
    return found
