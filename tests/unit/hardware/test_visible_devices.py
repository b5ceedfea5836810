"""CUDA_VISIBLE_DEVICES, rule by rule, and against a plain restatement of the rules."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.hardware.model import Gpu, MigSlice
from gpuexec.hardware.visible_devices import select

A, B, C = "GPU-aaaa1111-0", "GPU-aaaa2222-0", "GPU-cccc3333-0"
GPUS = tuple(Gpu(index=i, uuid=uuid, mig_enabled=False) for i, uuid in enumerate((A, B, C)))
SLICES = tuple(
    MigSlice(i, f"MIG-{i}{i}{i}{i}-0", "1g.10gb", 10, 0, 10, gpu_instance_id=7 + i, compute_instance_id=0)
    for i in range(2)
)
WITH_MIG = (dataclasses.replace(GPUS[0], mig_enabled=True, mig_slices=SLICES), *GPUS[1:])


def seen(value: str | None, gpus=GPUS, order: str | None = "PCI_BUS_ID") -> list[str]:
    env = {k: v for k, v in (("CUDA_VISIBLE_DEVICES", value), ("CUDA_DEVICE_ORDER", order)) if v is not None}
    return [device.uuid for device in select(gpus, env).devices]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [A, B, C]),
        ("", []),
        (" ", []),
        ("0", [A]),
        ("1,0", [B, A]),
        ("2,1,0", [C, B, A]),
        (" 1 , 2 ", [B, C]),
        ("0,-1,1", [A]),
        ("-1", []),
        ("-1,0", []),
        ("0,9,1", [A]),
        ("9", []),
        ("0,,1", [A]),
        (",0", []),
        ("0,x,1", [A]),
        ("1x,0", [B, A]),  # like strtol
        ("+1", [B]),
        ("NoDevFiles", []),
        ("none", []),
        ("0,0", []),
        ("0,1,0", []),
        (A, [A]),
        (f"{C},{A}", [C, A]),
        ("GPU-c", [C]),
        ("GPU-aaaa1", [A]),
        ("GPU-aaaa", []),
        ("GPU-", []),
        (f"{A},GPU-zzzz,{B}", [A]),
        (f"{A},{A}", []),
        (f"{A},GPU-aaaa1", []),
        (f"{A},1", [A]),
        (f"1,{A}", [B]),
        ("gpu-cccc", []),
        ("MIG-0000", []),
    ],
)
def test_selection(value, expected):
    assert seen(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [SLICES[0].uuid, SLICES[1].uuid, B, C]),
        ("0", [SLICES[0].uuid]),
        ("1,0", [B, SLICES[0].uuid]),
        (A, [SLICES[0].uuid]),
        (SLICES[1].uuid, [SLICES[1].uuid]),
        ("MIG-1", [SLICES[1].uuid]),
        ("MIG-", []),
        (f"MIG-{A}/8/0", [SLICES[1].uuid]),
        (f"MIG-{A}/9/0", []),
        (f"{SLICES[0].uuid},{B}", [SLICES[0].uuid]),
    ],
)
def test_mig(value, expected):
    assert seen(value, WITH_MIG) == expected


def test_a_lost_gpu_ends_the_list_and_is_never_given():
    gpus = (GPUS[0], dataclasses.replace(GPUS[1], lost=True), GPUS[2])
    assert seen(None, gpus) == [A, C]
    assert seen("0,1,2", gpus) == [A]


def test_a_gpu_in_mig_mode_without_slices():
    empty = (dataclasses.replace(GPUS[0], mig_enabled=True), *GPUS[1:])
    assert seen(None, empty) == [B, C]
    assert seen("0,1", empty) == []


def test_every_cut_is_explained():
    notes = select(GPUS, {"CUDA_VISIBLE_DEVICES": "0,9", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes
    assert any("'9'" in note and "no GPU 9" in note for note in notes)
    assert any("twice" in note for note in select(GPUS, {"CUDA_VISIBLE_DEVICES": "0,0"}).notes)


def test_the_order_that_nvml_does_not_know_is_noted():
    assert any("FASTEST_FIRST" in note for note in select(GPUS, {"CUDA_VISIBLE_DEVICES": "1"}).notes)
    assert not select(GPUS[:1], {"CUDA_VISIBLE_DEVICES": "0"}).notes
    assert not select(GPUS, {"CUDA_VISIBLE_DEVICES": A}).notes
    assert not select(GPUS, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).notes


def reference(entries: list[int], count: int) -> list[int]:
    """The rules for indices, stated a second time: stop at the first that does not exist; a duplicate gives nothing."""
    kept: list[int] = []
    for entry in entries:
        if not 0 <= entry < count:
            break
        kept.append(entry)
    return [] if len(set(kept)) < len(kept) else kept


@given(st.lists(st.integers(-2, 5), max_size=6))
def test_indices_agree_with_a_second_statement_of_the_rules(entries):
    expected = [GPUS[i].uuid for i in reference(entries, len(GPUS))]
    assert seen(",".join(map(str, entries))) == expected


@given(st.text(alphabet="0123456789,-+ GPUMIaxc/", max_size=30))
def test_any_text_gives_distinct_known_devices(value):
    chosen = seen(value, WITH_MIG)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= {SLICES[0].uuid, SLICES[1].uuid, B, C}
