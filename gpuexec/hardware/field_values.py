"""Numbers that NVML offers as "fields" (NVML_FI_DEV_* in nvml.h): many in one call, each with its own return code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuexec.hardware import nvml_errors
from gpuexec.hardware.nvml_calls import Reader

# nvmlValueType_t: the member of nvmlValue_t that has the value
_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def value_of(field: Any) -> int | float:
    """Return the value of a field that was read."""
    value: int | float = getattr(field.value, _MEMBERS[int(field.valueType)])
    return value


def read_fields(reader: Reader, handle: Any, numbers: Sequence[int]) -> tuple[dict[int, int], dict[int, str]]:
    """Return the fields of a GPU that are whole numbers, and why others are unknown, both by number."""
    nvml = reader.nvml
    fields, reason = reader.ask(nvml.nvmlDeviceGetFieldValues, handle, list(numbers))
    if fields is None:
        return {}, dict.fromkeys(numbers, reason)
    known, unknown = {}, {}
    for field in fields:
        if field.nvmlReturn == nvml.NVML_SUCCESS:
            known[int(field.fieldId)] = int(value_of(field))
        else:
            unknown[int(field.fieldId)] = nvml_errors.reason(nvml.NVMLError(field.nvmlReturn))
    return known, unknown
