"""Draws ```mermaid fences as SVG while the site is built, in light and in dark colours.

Mermaid itself draws them, in a JavaScript engine of the package ``mermaidx``: neither a browser nor a network is
needed, readers load no script, and a diagram with a fault ends the build.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

THEMES = {"light": "neutral", "dark": "dark"}
FONT = {"fontFamily": "Arial, Helvetica, 'Liberation Sans', 'DejaVu Sans', sans-serif"}


class Mermaid(SphinxDirective):
    """A diagram, for readers of the source also on GitHub. ``:alt:`` says what it shows."""

    has_content = True
    optional_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"alt": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        alt = self.options.get("alt") or title_of(code) or "Diagram; its text is in the source of this page"
        drawn = []
        for scheme, theme in THEMES.items():
            try:
                name = draw(code, theme, Path(self.env.app.outdir) / "_images")
            except RuntimeError as error:
                raise self.error(f"this Mermaid diagram cannot be drawn: {error}") from error
            prefix = "../" * self.env.docname.count("/")
            html = f'<img class="only-{scheme}" src="{prefix}_images/{name}" alt="{escape(alt)}">'
            drawn.append(html)
        return [nodes.raw("", f'<div class="diagram">{"".join(drawn)}</div>', format="html")]


def title_of(code: str) -> str:
    """Return the diagram's own title, from its ``accTitle``, or ''."""
    found = re.search(r"^\s*accTitle:\s*(.+)$", code, re.MULTILINE)
    return found.group(1).strip() if found else ""


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def draw(code: str, theme: str, folder: Path) -> str:
    """Write the diagram's SVG into the folder, unless it is there; return its name. Raises ``RuntimeError``."""
    import mermaidx

    name = f"diagram-{hashlib.sha256(chr(10).join((theme, code)).encode()).hexdigest()[:16]}.svg"
    path = folder / name
    if not path.exists():
        svg = mermaidx.render(code, theme=theme, config={"themeVariables": FONT}).svg()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(svg, encoding="utf-8")
    return name


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
