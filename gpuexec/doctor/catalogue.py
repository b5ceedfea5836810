"""Every check, in the order in which they are shown."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from gpuexec.doctor.checks import driver, environment, gpu_surroundings, gpus, host, pipeline
from gpuexec.doctor.model import Check
from gpuexec.errors import ConfigurationError

CHECKS: tuple[Check, ...] = (
    driver.driver,
    driver.gpus,
    driver.visible,
    driver.torch_cuda,
    gpus.compute_mode,
    gpus.persistence_mode,
    gpus.mig,
    gpu_surroundings.mps,
    gpus.ecc,
    gpus.row_remap,
    gpus.recovery_action,
    gpu_surroundings.xids,
    gpus.throttling,
    gpus.pcie_link,
    gpu_surroundings.numa,
    gpus.tenants,
    gpu_surroundings.pid_namespace,
    host.cpu_limit,
    host.memory_limit,
    host.shm,
    host.open_files,
    host.processes,
    host.memfd,
    host.pidfd,
    host.python,
    host.overcommit,
    host.swap,
    host.cpu_governor,
    host.clock_source,
    environment.thread_variables,
    environment.launcher_variables,
    environment.versions,
    environment.run_folder,
    environment.checkpoint_folder,
    environment.spill_folder,
    pipeline.target,
    pipeline.plan,
    pipeline.requirements,
    pipeline.start_up,
)


def chosen(only: Collection[str], skip: Collection[str]) -> tuple[Check, ...]:
    """Return the checks of the names ``only``, all without any, but those of ``skip``.

    Raises ``ConfigurationError`` for a name that no check has, with the closest one.
    """
    names = {each.name for each in CHECKS}
    for name in (*only, *skip):
        if name not in names:
            closest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {closest[0]!r}?" if closest else f"there are {', '.join(sorted(names))}"
            raise ConfigurationError(f"there is no check {name!r}; {hint}")
    return tuple(each for each in CHECKS if (not only or each.name in only) and each.name not in skip)
