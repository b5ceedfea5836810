"""Makes docs/curator.json of what the suite has run, or says where the two differ. docs/curator.md is made of that.

Usage: python -m tests.curator.stage_table --write|--check RUNS
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.curator.stage_classes import installed_folder, stage_classes
from tests.curator.stage_runs import PACKAGE

RESULTS = Path(__file__).parents[2] / "docs/curator.json"


def results(lines: Iterable[dict[str, str]]) -> dict[str, Any]:
    """Return what the page is made of: each class, the test that ran it, and why its module cannot be imported.

    Of the tests that ran a class, the first in order of its name counts, and those that ran the class itself before
    those that ran one derived from it.
    """
    best: dict[str, tuple[bool, str, str]] = {}
    for line in lines:
        if "class" in line:
            found = ("by" in line, line["test"], line.get("by", ""))
            best[line["class"]] = min(best.get(line["class"], found), found)
    modules = stage_classes(installed_folder())
    return {
        "version": importlib.metadata.version("nemo-curator"),
        "classes": {
            f"{module.removeprefix(PACKAGE)}:{name}": _result(best.get(f"{module.removeprefix(PACKAGE)}:{name}"))
            for module, names in sorted(modules.items())
            for name in sorted(names)
        },
        "missing": {
            module.removeprefix(PACKAGE): missing for module in sorted(modules) if (missing := missing_for(module))
        },
        "tests": sorted({line["test"] for line in lines}),
    }


def _result(found: tuple[bool, str, str] | None) -> dict[str, str]:
    if found is None:
        return {}
    derived, test, by = found
    return {"test": test, "by": by} if derived else {"test": test}


def missing_for(module: str) -> str | None:
    """Return which module is missing for this one to be imported here, ``None`` if nothing is."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return str(error.name)
    except ImportError as error:
        return str(error).splitlines()[0]
    return None


def main(how: str, runs: str) -> int:
    lines = [json.loads(line) for line in Path(runs).read_text(encoding="utf-8").splitlines()]
    found = results(lines)
    if how == "--write":
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{RESULTS}: {sum(map(bool, found['classes'].values()))} of {len(found['classes'])} classes were run")
        return 0
    known = json.loads(RESULTS.read_text(encoding="utf-8"))
    differing = sorted(
        name
        for name in {**known["classes"], **found["classes"]}
        if bool(known["classes"].get(name)) != bool(found["classes"].get(name))
    )
    if known["version"] == found["version"] and differing:
        print(
            f"docs/curator.json differs from what ran: {', '.join(differing)}; run scripts/test-curator --write-table"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
