"""Sees first whether this interpreter can run the checks at all, with the standard library alone."""

import importlib.util
import sys

_PACKAGES = {
    "cloudpickle": "cloudpickle",
    "loguru": "loguru",
    "packaging": "packaging",
    "psutil": "psutil",
    "pynvml": "nvidia-ml-py",
    "rich": "rich",
    "typer": "typer",
}


def unfit() -> str:
    """Return what this interpreter lacks, and how to mend it; empty if it lacks nothing."""
    version = sys.version_info[:2]
    if not (3, 11) <= version <= (3, 14):
        return (
            f"gpuexec needs Python 3.11 to 3.14, and {sys.executable} is {version[0]}.{version[1]}: "
            "name another with --python"
        )
    lacking = [package for module, package in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if lacking:
        return (
            f"{sys.executable} lacks {', '.join(lacking)}. Install into it what gpuexec needs:\n"
            f"  {sys.executable} -m pip install {' '.join(lacking)}\n"
            "or name another interpreter with --python"
        )
    return ""


if __name__ == "__main__":
    problem = unfit()
    if problem:
        print("error: " + problem, file=sys.stderr)
        sys.exit(2)
    from gpu_checks.command import main

    sys.exit(main(sys.argv[1:]))
