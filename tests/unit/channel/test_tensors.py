"""How the codec pickles arrays and what lies on a GPU, with no GPU library in this process.

A class with a method ``get`` stands in for cupy. torch is tested in tests/curator, where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from loguru import logger

from gpuexec.channel import codec, gpu_fields, tensors
from tests.process.stages import Item


class OnGpu:
    """Stands in for ``cupy.ndarray``, which has its content elsewhere and copies it with ``get``."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def get(self) -> np.ndarray:
        return np.array(self._values)

    def __reduce__(self):
        raise AssertionError("cupy's own pickling would bring it to the receiver's GPU")


class Slotted:
    __slots__ = ("__weakref__", "array", "unset")

    def __init__(self, array: Any) -> None:
        self.array = array


class Touchy:
    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __dict__(self):
        raise RuntimeError("not yours")

    @__dict__.setter
    def __dict__(self, value): ...

    def __reduce__(self):
        return OnGpu, ([1],)


@pytest.fixture
def cupy(monkeypatch):
    module = ModuleType("cupy")
    module.ndarray = OnGpu
    monkeypatch.setattr(tensors, "REDUCERS", dict(tensors.REDUCERS))
    monkeypatch.setattr(tensors, "GPU_TESTS", dict(tensors.GPU_TESTS))
    monkeypatch.setattr(gpu_fields, "_reported", set())
    monkeypatch.setitem(sys.modules, "cupy", module)
    tensors.find_libraries()


@pytest.fixture
def warnings():
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}", level="WARNING")
    yield lines
    logger.remove(sink)


def travel(value: Any) -> Any:
    return codec.decode(codec.encode(value).join(), in_place=False)


def test_a_gpu_array_arrives_in_host_memory_and_one_warning_names_its_field(cupy, warnings):
    (first,) = travel([Item("d", {"text": "a", "embedding": OnGpu([1, 2])})])
    travel([Item("d", {"text": "b", "embedding": OnGpu([3])}) for _ in range(3)])
    assert isinstance(first.data["embedding"], np.ndarray)
    assert first.data["embedding"].tolist() == [1, 2]
    assert first.data["embedding"].flags.writeable
    assert len(warnings) == 1
    assert warnings[0].startswith("WARNING Item.data['embedding'] lies in GPU memory")


def test_each_field_has_its_warning(cupy, warnings):
    travel([Item("d", {"a": OnGpu([1]), "b": [OnGpu([2])]}), Item("d", OnGpu([3]))])
    assert [line.split()[1] for line in warnings] == ["Item.data", "Item.data['a']", "Item.data['b'][*]"]


def test_pickling_by_value_follows_the_same_rule(cupy, warnings):
    task = travel(Item("d", (OnGpu([5]), lambda: 1)))
    assert task.data[0].tolist() == [5]
    assert [line.split()[1] for line in warnings] == ["Item.data[*]"]


def test_keys_that_are_data_do_not_warn_indefinitely(cupy, warnings):
    for number in range(100):
        travel([Item("d", {f"document {number}": OnGpu([1])})])
    assert len(warnings) == gpu_fields._MAX_WARNINGS


def test_a_field_that_cannot_be_found_is_warned_about_too(cupy, warnings):
    task = travel([Item("d", Touchy(None))])[0]
    assert task.data.get().tolist() == [1]
    assert not warnings, "nothing was on the GPU"

    class Sly:
        def __reduce__(self):
            return list, (), None, iter([OnGpu([1])])

    travel([Item("d", Sly())])
    assert len(warnings) == 1
    assert "Item (in a field that was not found)" in warnings[0]


def test_fields_are_found_nearest_first_in_whatever_holds_them(cupy):
    array = OnGpu([1])
    loop: list[Any] = [array]
    loop.append(loop)
    task = Item("d", {"x": loop, 3: (OnGpu([2]),), "slots": Slotted(OnGpu([3])), "touchy": Touchy(OnGpu([4]))})
    task.own = OnGpu([5])
    assert gpu_fields.fields_on_gpu([task]) == [
        "Item.own",
        "Item.data['x'][*]",
        "Item.data[*][*]",
        "Item.data['slots'].array",
    ]


def test_the_search_ends_in_a_large_task(cupy):
    task = Item("d", [SimpleNamespace(number=number) for number in range(100_000)])
    task.data.append(OnGpu([1]))
    assert gpu_fields.fields_on_gpu([task]) == []


def test_arrays_get_a_reducer_once_numpy_is_imported_and_nothing_else_imports_it():
    script = (
        "import sys\n"
        "from gpuexec.channel import codec\n"
        "encoder = codec.Encoder()\n"
        "encoder.encode([1])\n"
        "assert not {'numpy', 'torch', 'cupy', 'loguru', 'cloudpickle'} & set(sys.modules)\n"
        "import numpy as np\n"
        "array = np.arange(3)\n"
        "array.flags.writeable = False\n"
        "assert codec.decode(encoder.encode(array).join(), in_place=False).flags.writeable\n"
        "assert not {'torch', 'cupy', 'loguru', 'cloudpickle'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
