"""What scripts/gpu-check parses and judges, without a GPU or a process. The package is put on the path here."""

from __future__ import annotations

import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.hardware.model import ComputeMode, Gpu, Host, MigSlice, Node
from tests.nvml_sim import nodes
from tests.nvml_sim import smi as stand_in

ROOT = Path(__file__).parents[3]
GIB, MIB = nodes.GIB, nodes.MIB
sys.path.insert(0, str(ROOT / "scripts"))
smi, compare, results, catalogue = (
    importlib.import_module(f"gpu_checks.{name}") for name in ("smi", "compare", "results", "catalogue")
)
sys.path.remove(str(ROOT / "scripts"))

# As a driver of 2024 prints it: N/A where a board has no such feature, a MIG device without UUID and profile.
DOCUMENT = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <timestamp>Mon Mar  4 09:12:55 2024</timestamp>
  <driver_version>550.54.14</driver_version>
  <cuda_version>12.4</cuda_version>
  <attached_gpus>3</attached_gpus>
  <gpu id="00000000:07:00.0">
    <product_name>NVIDIA A100-SXM4-40GB</product_name>
    <mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>
    <mig_devices>
      <mig_device>
        <index>0</index>
        <gpu_instance_id>2</gpu_instance_id>
        <compute_instance_id>0</compute_instance_id>
        <device_attributes><shared><multiprocessor_count>42</multiprocessor_count></shared></device_attributes>
        <fb_memory_usage><total>19968 MiB</total><reserved>0 MiB</reserved><used>37 MiB</used></fb_memory_usage>
      </mig_device>
    </mig_devices>
    <uuid>GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f</uuid>
    <fb_memory_usage><total>40960 MiB</total><reserved>584 MiB</reserved><used>N/A</used></fb_memory_usage>
    <compute_mode>Default</compute_mode>
  </gpu>
  <gpu id="00000000:0F:00.0">
    <product_name>NVIDIA GeForce RTX 4060</product_name>
    <mig_mode><current_mig>N/A</current_mig><pending_mig>N/A</pending_mig></mig_mode>
    <mig_devices>
      None
    </mig_devices>
    <uuid>GPU-00000001-1111-2222-3333-444444444444</uuid>
    <fb_memory_usage><total>8188 MiB</total><reserved>233 MiB</reserved><used>345 MiB</used></fb_memory_usage>
    <compute_mode>Exclusive_Process</compute_mode>
  </gpu>
  <gpu id="00000000:47:00.0">
    <product_name>[GPU is lost]</product_name>
    <uuid>[Unknown Error]</uuid>
    <fb_memory_usage><total>[GPU requires reset]</total></fb_memory_usage>
  </gpu>
</nvidia_smi_log>
"""


def test_a_document_is_read():
    log = smi.parse(DOCUMENT)
    assert (log.driver_version, log.cuda_version) == ("550.54.14", "12.4")
    divided, plain, lost = log.gpus
    assert divided.mig_enabled is True
    assert divided.slices == (smi.SmiSlice(0, 2, 0, 19968 * MIB, None),)
    assert (divided.memory_total_bytes, divided.memory_reserved_bytes) == (40960 * MIB, 584 * MIB)
    assert (plain.mig_enabled, plain.slices, plain.compute_mode) == (None, (), "exclusive_process")
    assert (lost.uuid, lost.name, lost.memory_total_bytes, lost.compute_mode) == (None, None, None, None)


@pytest.mark.parametrize("text", ["", "NVIDIA-SMI has failed because …", "<other/>", "<nvidia_smi_log>"])
def test_what_is_no_document_is_refused(text):
    with pytest.raises(smi.NotReadable):
        smi.parse(text)


def node(**changes) -> Node:
    gpu = {
        "index": 0,
        "uuid": nodes.uuid(0),
        "name": "NVIDIA H100 80GB HBM3",
        "pci_bus_id": "00000000:10:00.0",
        "memory_total_bytes": 80 * GIB,
        "memory_reserved_bytes": 512 * MIB,
        "compute_mode": ComputeMode.DEFAULT,
        "mig_enabled": True,
        "mig_slices": tuple(
            MigSlice(index, nodes.uuid(index, "MIG"), None, size * GIB, 0, 0, index + 1, 0)
            for index, size in enumerate((40, 10, 10))
        ),
        **changes,
    }
    return Node(Host("h", (0,), None, None, None), (Gpu(**gpu),), (), "580.95.05", "13.0")


def test_the_same_node_has_no_differences():
    log = smi.parse(stand_in.document(nodes.mig()))
    assert smi.differences(log, node()) == []
    assert smi.differences(log, node(memory_total_bytes=80 * GIB + MIB // 2)) == [], "nvidia-smi prints whole MiB"
    assert smi.differences(log, node(pci_bus_id="0000:10:00.0")) == []


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("uuid", nodes.uuid(7), "uuid"),
        ("name", "another", "name"),
        ("pci_bus_id", "00000000:11:00.0", "PCI address"),
        ("memory_total_bytes", 79 * GIB, "memory_total_bytes"),
        ("memory_reserved_bytes", 0, "memory_reserved_bytes"),
        ("compute_mode", ComputeMode.PROHIBITED, "compute mode"),
        ("mig_enabled", False, "mig_enabled"),
        ("mig_slices", (), "0 MIG slice(s), nvidia-smi 3"),
    ],
)
def test_each_difference_is_told(field, value, words):
    (told,) = smi.differences(smi.parse(stand_in.document(nodes.mig())), node(**{field: value}))
    assert words in told


def test_a_reading_that_only_nvidia_smi_has_is_told_with_the_reason():
    log = smi.parse(stand_in.document(nodes.mig()))
    bare = node(uuid=None, unknown={"uuid": "not supported by this GPU"})
    assert smi.differences(log, bare) == []
    assert smi.unread(log, bare) == ["GPU 0: uuid (not supported by this GPU)"]


def test_another_number_of_gpus_is_a_difference():
    assert smi.differences(smi.parse(stand_in.document(nodes.unequal())), node())[-1].startswith("gpuexec lists 1 GPU")


UUIDS = st.lists(st.uuids().map(str), min_size=1, max_size=4, unique=True)


@given(UUIDS, st.randoms())
def test_devices_are_the_same_in_order_whatever_their_prefix(uuids, random):
    assert not compare.same_devices("w", [f"GPU-{uuid}" for uuid in uuids], uuids)
    assert not compare.same_devices("w", [f"MIG-{uuid}" for uuid in uuids], [f"GPU-{uuid.upper()}" for uuid in uuids])
    shuffled = random.sample(uuids, len(uuids))
    assert bool(compare.same_devices("w", uuids, shuffled)) == (shuffled != uuids)
    assert compare.same_devices("w", uuids, uuids[1:])


@given(st.integers(0, 2**40), st.integers(0, 2**32), st.integers(-(2**33), 2**33))
def test_a_known_amount_is_never_less_and_little_more(known, slack, off):
    assert bool(compare.at_least_known("x", known + off, known, slack)) == (not 0 <= off <= slack)


def test_memory_is_free_in_time_or_not():
    assert not compare.freed("worker", 2.0)
    assert "2.01 s" in compare.freed("worker", 2.01)[0]
    assert compare.freed("worker", None)


@given(st.floats(0, 1000), st.lists(st.floats(0.01, 1), min_size=1, max_size=50))
def test_constant_power_is_watts_times_seconds(watts, steps):
    times = [sum(steps[:place]) for place in range(len(steps) + 1)]
    joules = compare.joules_of([(at, watts) for at in times])
    assert math.isclose(joules, watts * times[-1], abs_tol=1e-9)


@pytest.mark.parametrize(
    ("counted", "summed", "agree"), [(109, 100, True), (91, 100, True), (111, 100, False), (0, 0, False)]
)
def test_energies_may_differ_by_a_tenth(counted, summed, agree):
    assert (not compare.energy_agrees(0, counted, summed)) == agree


def test_the_sampler_may_take_a_twentieth_of_a_core():
    assert not compare.sampler_is_cheap(0.025)
    assert compare.sampler_is_cheap(0.026)


def test_scores_and_what_they_keep_are_compared():
    cpu = {"a": 0.1, "b": 0.50001, "c": 0.9}
    assert not compare.same_scores(cpu, {"a": 0.1, "b": 0.49999, "c": 0.9}, 1e-4)
    assert not compare.same_kept(cpu, {"a": 0.1, "b": 0.49999, "c": 0.9}, 0.5, 1e-4), "too close to tell"
    assert compare.same_kept(cpu, {"a": 0.7, "b": 0.5, "c": 0.9}, 0.5, 1e-4)
    assert compare.same_scores(cpu, {"a": 0.1, "b": 0.5, "c": math.nan}, 1e-4)
    assert compare.same_scores(cpu, {"a": 0.1}, 1e-4)


def test_a_template_that_has_initialised_cuda_is_told():
    assert not compare.template_is_clean(7, [8], ["/dev/null", "/dev/nvidiactl"])
    assert compare.template_is_clean(7, [7], [])
    assert compare.template_is_clean(7, [], ["/dev/nvidia-uvm"])


def test_the_built_in_benchmark_must_have_figures_of_gpus():
    builtin = importlib.import_module("gpu_checks.builtin")
    host = {"key": "memory.copy", "values": [1.0], "reason": None}
    seen = builtin.judged([host, {"key": "gpu0.matmul", "values": [2.0], "reason": None}])
    assert (seen.problems, seen.summary) == ((), "2 of 2 figures measured, 1 of them of GPUs")
    assert "no torch" in builtin.judged([host, {"key": "gpu.all", "values": [], "reason": "no torch"}]).problems[0]
    assert builtin.judged([host]).problems


def result(outcome: str):
    return results.Result("a.b", "It holds.", results.Outcome(outcome))


@pytest.mark.parametrize(
    ("outcomes", "status"), [(["PASS", "SKIPPED"], 0), (["PASS", "FAIL"], 1), (["SKIPPED"], 3), ([], 3)]
)
def test_the_exit_status(outcomes, status):
    assert results.exit_status([result(outcome) for outcome in outcomes]) == status


def test_the_document_names_its_schema_and_is_json():
    made = json.loads(json.dumps(results.document([result("PASS"), result("SKIPPED")], gpuexec="1")))
    assert (made["schema"], made["version"]) == ("gpuexec-gpu-check", 1)
    assert made["counts"] == {"PASS": 1, "FAIL": 0, "SKIPPED": 1}
    assert [check["outcome"] for check in made["checks"]] == ["PASS", "SKIPPED"]


def test_checks_are_chosen_by_name_or_group():
    assert catalogue.chosen([]) == catalogue.CHECKS
    assert [check.name for check in catalogue.chosen(["sampler", "memory.peaks"])] == ["memory.peaks", "sampler.cost"]
    with pytest.raises(ValueError, match=r"no check 'memory\.peak'; there are inventory"):
        catalogue.chosen(["memory.peak"])


def test_the_page_lists_every_check():
    page = (ROOT / "docs" / "gpu-truth.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+\.\w+)` \|", page, re.MULTILINE) == [check.name for check in catalogue.CHECKS]


def test_an_interpreter_that_lacks_packages_says_which():
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "scripts" / "gpu_checks" / "__main__.py")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "lacks cloudpickle" in done.stderr
    assert "-m pip install cloudpickle" in done.stderr
