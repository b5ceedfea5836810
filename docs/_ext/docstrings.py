"""Makes reStructuredText of this project's docstrings, and finds the page of a name that they mention.

The docstrings are plain text for editors: a line that begins with a name in double backticks and a colon describes that
name. Here each such line becomes an item of a list. Signatures name classes by the module that defines them; readers
know them as ``gpuexec.NAME``, which is where the reference has them. Names of classes that are not part of the API
appear as text; a name that no class has is an error of the build.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from item_lists import as_list
from sphinx.application import Sphinx

import gpuexec


def rewrite(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = as_list(lines)


@functools.cache
def class_names() -> frozenset[str]:
    """Return the names of all classes and type aliases that the package defines."""
    sources = Path(gpuexec.__file__).parent.rglob("*.py")
    found = (
        re.findall(r"^(?:class )?(\w+)(?:[(:\[]| = | *: TypeAlias)", path.read_text(), re.MULTILINE) for path in sources
    )
    return frozenset(name for names in found for name in names)


def public_name(app: Sphinx, env: Any, node: Any, contents: nodes.Element) -> nodes.Node | None:
    """Resolve ``gpuexec.contract.task.Task``, ``Task`` and ``~.Task`` to the place of ``gpuexec.Task``."""
    if node.get("refdomain") != "py":
        return None
    last = node["reftarget"].rpartition(".")[2]
    objects = env.domains["py"].objects
    entry = objects.get(f"gpuexec.{last}") or objects.get(f"gpuexec.events.{last}")
    if entry is not None:
        target = f"{app.builder.get_relative_uri(node['refdoc'], entry.docname)}#{entry.node_id}"
        return nodes.reference("", "", contents, internal=True, refuri=target, reftitle=f"gpuexec.{last}")
    return contents if last in class_names() else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("missing-reference", public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
