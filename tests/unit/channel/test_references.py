from __future__ import annotations

import gc

from gpuexec.channel.references import only_its_list_has


class Mapping:
    pass


def test_what_only_the_list_has():
    assert only_its_list_has([Mapping()])
    assert only_its_list_has([Mapping(), Mapping()])


def test_each_other_reference_counts():
    mapping = Mapping()
    held = [mapping]
    assert not only_its_list_has(held)
    del mapping
    assert only_its_list_has(held)
    held.insert(0, held[0])
    assert not only_its_list_has(held)
    held.pop(0)
    view = [held[-1]]
    assert not only_its_list_has(held)
    view.clear()
    gc.collect()
    assert only_its_list_has(held)


def test_a_local_variable_of_a_caller_counts():
    def caller(mapping: Mapping, held: list[Mapping]) -> bool:
        return only_its_list_has(held)

    held = [Mapping()]
    assert not caller(held[0], held)
    assert only_its_list_has(held)
