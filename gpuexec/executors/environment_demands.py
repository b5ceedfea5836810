"""What a ``runtime_env`` asks for, part by part, and what of it this environment does not have.

The parts are Ray's (``ray.runtime_env.RuntimeEnv``). Nothing is installed, mounted or built here. So a part is met if
the environment is as it asks already, and else it is not.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.executors.installed import problem_of, problem_of_conda
from gpuexec.executors.requirement_lines import lines_of

Demand = tuple[str, str]  # what is asked for, and why it is not met


def _packages(value: Any) -> Iterator[Demand]:
    for line in lines_of(value):
        problem = problem_of(line)
        if problem is not None:
            yield ("-e " if line.is_editable else "") + line.text, problem


def _conda(value: Any) -> Iterator[Demand]:
    if isinstance(value, Mapping):
        dependencies = value.get("dependencies") or ()
        if not isinstance(dependencies, list | tuple):
            raise TypeError(f"its 'dependencies' must be a list, got {dependencies!r}")
        for entry in dependencies:
            if isinstance(entry, Mapping):
                yield from _packages(entry.get("pip"))
            elif (problem := problem_of_conda(str(entry))) is not None:
                yield str(entry), problem
        return
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"it must be a mapping with 'dependencies' or the name of an environment, got {value!r}")
    name = str(value)
    if name.endswith((".yml", ".yaml")):
        yield name, "files of conda are not read here: give its content as a mapping with 'dependencies'"
    elif name not in (os.environ.get("CONDA_DEFAULT_ENV"), sys.prefix):
        yield name, f"this program runs in {sys.prefix}: start it in that environment"


def _working_dir(value: Any) -> Iterator[Demand]:
    if "://" in str(value) or Path(str(value)).expanduser().resolve() != Path.cwd().resolve():
        yield str(value), f"workers work where the program does, in {Path.cwd()}: start it in that folder"


def _py_modules(value: Any) -> Iterator[Demand]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"it must be a list of modules or paths, got {value!r}")
    for entry in value:
        if isinstance(entry, ModuleType):
            continue
        text = str(entry)
        if text.endswith(".whl"):
            yield from _packages([text])
        elif "://" in text:
            yield text, "nothing is fetched here: install it, or put it on PYTHONPATH"
        elif not _is_importable(Path(text).expanduser().resolve()):
            yield text, f"it is not imported from there: put {Path(text).resolve().parent} on PYTHONPATH"


def _is_importable(path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):
        return False
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    return any(place and Path(place).resolve().is_relative_to(path) for place in places)


def _py_executable(value: Any) -> Iterator[Demand]:
    if str(value) != sys.executable:
        yield str(value), f"workers use the interpreter of the program, {sys.executable}: start it with that one"


def _never(way_out: str) -> Callable[[Any], Iterator[Demand]]:
    def part(value: Any) -> Iterator[Demand]:
        if value:
            yield str(value), way_out

    return part


_IMAGE = _never("workers are processes beside the program: run the whole program in that image")

PARTS: Mapping[str, Callable[[Any], Iterator[Demand]]] = {
    "pip": _packages,
    "uv": _packages,
    "conda": _conda,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "py_executable": _py_executable,
    "container": _IMAGE,
    "image_uri": _IMAGE,
    "java_jars": _never("no worker runs Java: it has to be on the CLASSPATH of what starts it"),
    "mpi": _never("workers are not started by MPI"),
    "worker_process_setup_hook": _never("nothing calls it: call it in the stage's setup()"),
}


def check_parts(runtime_env: Mapping[str, Any], owner: str) -> Iterator[tuple[str, str, str]]:
    """Yield part, what it asks for, and why that is not met. Raises ``ConfigurationError``."""
    for part, meets in PARTS.items():
        try:
            value = runtime_env.get(part)
            for text, problem in meets(value) if value is not None else ():
                yield part, text, problem
        except OSError as error:
            raise ConfigurationError(
                f"{owner}: the requirements file {error.filename!r} of its runtime_env[{part!r}] cannot be read: "
                f"{error.strerror}"
            ) from error
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{owner}: its runtime_env[{part!r}] has no meaning: {error}") from error
