"""Draws ```mermaid fences as SVG while the site is built.

Mermaid itself draws them, in a JavaScript engine of the package ``mermaidx``: neither a browser nor a network is
needed, readers load no script, and a diagram with a fault ends the build. They are grey, so that the style sheet can
invert them in the dark.
"""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FONT = {"fontFamily": "Arial, Helvetica, 'Liberation Sans', 'DejaVu Sans', sans-serif"}


class Mermaid(SphinxDirective):
    """A diagram. Its ``accTitle`` says what it shows, to those who do not see it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        code = "\n".join(self.content)
        title = re.search(r"^\s*accTitle:\s*(.+)$", code, re.MULTILINE)
        if title is None:
            raise self.error("this Mermaid diagram has no accTitle, which says what it shows")
        try:
            name, width = draw(code, Path(self.env.app.outdir) / "_images")
        except RuntimeError as error:
            raise self.error(f"this Mermaid diagram cannot be drawn: {error}") from error
        source = f"{'../' * self.env.docname.count('/')}_images/{name}"
        image = f'<img width="{width}" src="{source}" alt="{html.escape(title.group(1).strip())}">'
        return [nodes.raw("", f'<div class="diagram">{image}</div>', format="html")]


def draw(code: str, folder: Path) -> tuple[str, int]:
    """Write the diagram's SVG into the folder, unless it is there.

    Return its name, and its width in pixels. Raises ``RuntimeError`` if Mermaid does not understand it.
    """
    import mermaidx

    path = folder / f"diagram-{hashlib.sha256(code.encode()).hexdigest()[:16]}.svg"
    if not path.exists():
        svg = mermaidx.render(code, theme="neutral", config={"themeVariables": FONT}).svg()
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(svg, encoding="utf-8")
    found = re.search(r'viewBox="\S+ \S+ (\S+) ', path.read_text(encoding="utf-8"))
    if found is None:
        raise RuntimeError("its SVG has no size")
    return path.name, round(float(found.group(1)))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
