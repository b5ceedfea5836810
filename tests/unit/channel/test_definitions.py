"""Classes that the receiver cannot import: sent by their definitions, each unpickled once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

from gpuexec.channel import codec, definitions
from tests.process.stages import Item


def local_class(base: type = Item) -> type:
    class Local(base):
        tally = 0

        def doubled(self):
            return 2 * self.data

    return Local


def travel(value, encoder=None):
    return codec.decode((encoder or codec.Encoder()).encode(value).join(), in_place=False)


@pytest.fixture
def cloudpickled(monkeypatch):
    """Count the objects that cloudpickle had to pickle whole."""
    seen = []
    plain = codec.encode_by_value
    monkeypatch.setattr(codec, "encode_by_value", lambda obj, **options: seen.append(obj) or plain(obj, **options))
    return seen


def test_an_instance_of_a_local_class_arrives_as_one_of_the_same_class(cloudpickled):
    cls = local_class()
    arrived = travel([cls("d", 1), cls("d", 2), cls])
    assert type(arrived[0]) is type(arrived[1]) is arrived[2] is cls
    assert arrived[1].doubled() == 4
    assert not cloudpickled


SLOTTED = """
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

class Text:
    __slots__ = "text"

class Private(Text):
    __slots__ = ("__own", "__weakref__")
    def __init__(self): self.text, self.__own = "t", 1
    def value(self): return self.text, self.__own

class Open:
    __slots__ = {"a": "documented", "__dict__": ""}
    def __init__(self): self.a, self.b = 1, 2
    def value(self): return self.a, self.b

class Late:
    def __init__(self): self.x = 1
    def value(self): return self.x
Late.__slots__ = ("x",)

@dataclass(slots=True, weakref_slot=True)
class Data(Generic[TypeVar("T")]):
    a: int = 3
    def value(self): return self.a

class Named(NamedTuple):
    a: int = 4
    def value(self): return self.a

class Pair(tuple):
    __slots__ = ()
    def value(self): return len(self)

VALUES = [Private(), Open(), Late(), Data(), Named(), Pair((1, 2))]
"""


@pytest.mark.parametrize("encode", ["codec.encode", "codec.encode_by_value"])
def test_classes_with_slots_travel_there_and_back(encode):
    """cloudpickle#225: what comes back has to fit the class that it came from."""
    there = """
import sys
from gpuexec.channel import codec
values = codec.decode(bytes.fromhex(sys.stdin.read()), in_place=False)
assert all(hasattr(type(v), "__slots__") for v in values)
print(codec.encode(values).join().hex())
"""
    script = f"""
import subprocess, sys
from gpuexec.channel import codec
{SLOTTED}
sent = {encode}(VALUES).join().hex()
there = [sys.executable, "-c", {there!r}]
got = subprocess.run(there, input=sent, text=True, check=True, stdout=subprocess.PIPE)
back = codec.decode(bytes.fromhex(got.stdout), in_place=False)
assert [type(v) for v in back] == [type(v) for v in VALUES]
print([v.value() for v in back])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=_environment()
    )
    assert done.stdout == "[('t', 1), (1, 2), 1, 3, 4, 2]\n", done.stderr


def test_the_definition_is_pickled_once_a_sender(monkeypatch):
    cls, encoder = local_class(), codec.Encoder()
    made = []
    define = definitions.define
    monkeypatch.setattr(definitions, "define", lambda cls: made.append(cls) or define(cls))
    for number in range(5):
        assert travel([cls("d", number)], encoder)[0].data == number
    assert made == [cls]


def test_a_later_sender_sends_the_class_as_it_is_then(monkeypatch):
    cls = local_class()
    travel(cls("d", 1))
    cls.tally = 5
    payload = codec.encode(cls("d", 1)).join()
    monkeypatch.setattr(definitions, "_CLASSES", {})
    assert type(codec.decode(payload, in_place=False)).tally == 5


def test_a_receiver_unpickles_a_definition_once():
    script = (
        "from gpuexec.channel import codec, definitions\n"
        "class Local: pass\n"
        "encoder = codec.Encoder()\n"
        "import os, sys\n"
        "for _ in range(3): sys.stdout.buffer.write(encoder.encode([Local()]).join().hex().encode() + b'\\n')\n"
    )
    sent = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=_environment())
    first, *others = [codec.decode(bytes.fromhex(line.decode()), in_place=False)[0] for line in sent.stdout.split()]
    assert type(first).__module__ == "__main__"
    assert all(type(other) is type(first) for other in others)


def test_data_that_contains_the_name_of_a_script_is_data(cloudpickled):
    encoder = codec.Encoder()
    value = [Item("__main__", {"__main__": "__main__", "text": "if __name__ == '__main__': main()"})]
    stream = pickle.dumps(value, 5)
    for _ in range(3):
        assert travel(value, encoder)[0].data == value[0].data
    assert encoder.encode(value).size < len(stream) + 100
    assert not cloudpickled


def test_enums_data_classes_with_slots_and_functions_come_along():
    class Colour(Enum):
        RED = 1

    factor = 3
    arrived = travel([Colour.RED, Item("d", lambda x: x * factor), local_class(Exception)("why")])
    assert arrived[0] is Colour.RED
    assert arrived[1].data(2) == 6
    assert arrived[2].args == ("why",)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(codec.__file__).parents[2])}


def test_a_class_that_was_announced_is_referred_to(monkeypatch, cloudpickled):
    cls = local_class()
    token, definition = definitions.define(cls)
    announced = codec.encode(definitions.Announces({token: definition})).join()
    encoder = codec.Encoder(announced={token})
    payload = encoder.encode([cls("d", 1)]).join()
    assert len(payload) < len(codec.encode([cls("d", 1)]).join()) - len(definition) + 100
    monkeypatch.setattr(definitions, "ANNOUNCED", {})
    assert type(codec.decode(payload, in_place=False)[0]) is cls, "the sender knows it"
    monkeypatch.setattr(definitions, "_CLASSES", {})
    with pytest.raises(KeyError):
        codec.decode(payload, in_place=False)
    assert codec.decode(announced, in_place=False) == []
    assert codec.decode(payload, in_place=False)[0].doubled() == 2
    assert not cloudpickled
