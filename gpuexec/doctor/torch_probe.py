"""Says what torch sees of CUDA, as a JSON object on standard output. Run by its path, in a process of its own.

It imports nothing of gpuexec. It computes nothing and makes no tensor, so that GPUs in exclusive mode and full ones can
be asked about. Its argument is the pid of the process that asks.
"""

import ctypes
import json
import os
import signal
import sys
import warnings

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def _main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    answer.write(json.dumps(_look()))
    answer.flush()
    os._exit(0)  # libraries may hang at their own end


def _look() -> dict[str, object]:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return {"version": None}
        return {"version": None, "problem": f"torch cannot be imported: {error}"}
    except BaseException as error:  # noqa: BLE001 - a library of it is missing or broken
        return {"version": None, "problem": f"torch cannot be imported: {type(error).__name__}: {error}"}
    found: dict[str, object] = {"version": str(torch.__version__), "cuda": getattr(torch.version, "cuda", None)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["available"] = bool(torch.cuda.is_available())
    said = [str(warning.message).strip() for warning in caught]
    if not found["available"]:
        return {**found, "problem": " | ".join(said) or _why_not(torch)}
    devices = []
    for index in range(torch.cuda.device_count()):
        capability = tuple(torch.cuda.get_device_capability(index))
        devices.append({"name": torch.cuda.get_device_name(index), "capability": capability})
    return {**found, "devices": devices, "architectures": list(torch.cuda.get_arch_list()), "problem": " | ".join(said)}


def _why_not(torch: object) -> str:
    try:
        torch.cuda.init()  # type: ignore[attr-defined]
    except BaseException as error:  # noqa: BLE001 - what it says is the answer
        return str(error).strip()
    return ""


if __name__ == "__main__":
    _main()
