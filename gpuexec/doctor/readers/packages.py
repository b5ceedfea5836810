"""Installed packages: versions of those that matter, and whether what they require of each other is there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from importlib import metadata

from gpuexec.doctor.facts import PackageFacts

# Those that stages of data pipelines use most, and what gpuexec itself needs.
USUAL = (
    *("gpuexec", "nemo-curator", "torch", "numpy", "pandas", "pyarrow", "polars", "cupy-cuda12x", "cupy-cuda13x"),
    *("cudf-cu12", "cudf-cu13", "jax", "tensorflow", "transformers", "vllm", "nvidia-ml-py", "cloudpickle", "loguru"),
    *("packaging", "psutil", "rich", "typer"),
)


def read_packages(modules: Iterable[str] = ()) -> PackageFacts:
    """Read the usual packages, and those that have the given modules, as far as they are installed."""
    names = {_canonical(name) for name in (*USUAL, *_packages_of({module.partition(".")[0] for module in modules}))}
    installed = {name: found for name in sorted(names) if (found := _distribution(name)) is not None}
    return PackageFacts(
        versions={name: found.version for name, found in installed.items()},
        conflicts=tuple(conflict for name, found in installed.items() for conflict in _conflicts(name, found)),
    )


def _packages_of(modules: Collection[str]) -> set[str]:
    if not modules:
        return set()
    owners = metadata.packages_distributions()  # reads the lists of files of all packages
    return {owner for module in modules for owner in owners.get(module, ())}


def _distribution(name: str) -> metadata.Distribution | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return found if found.metadata is not None and found.version else None


def _conflicts(name: str, found: metadata.Distribution) -> Iterator[tuple[str, str, str]]:
    """Yield the requirements of a package that are not met: (package, requirement, what is there).

    Of gpuexec itself, what its extras require counts where that is installed: nobody else can say which extras are
    used.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    extras = ["", *(found.metadata.get_all("Provides-Extra") or ())] if name == "gpuexec" else [""]
    for text in found.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        for_extra = [extra for extra in extras if marker is None or marker.evaluate({"extra": extra})]
        required = _distribution(requirement.name) if for_extra else None
        wanted = str(requirement).partition(";")[0].strip()
        if required is None:
            if "" in for_extra:
                yield name, wanted, "not installed"
        elif not requirement.specifier.contains(required.version, prereleases=True):
            yield name, wanted, required.version


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))
