"""Print the tables of docs/scaling.md. ``--measure`` takes new figures; ``--save`` writes tables and picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from scaling.measure import measure
from scaling.tables import imbalance_table, measured_table, picture, simulated, simulated_table

DOCS = Path(__file__).resolve().parents[2] / "docs"


def with_section(page: str, name: str, lines: Iterable[str]) -> str:
    """Return the page with these lines between the comments with this name."""
    before, begin, rest = page.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not begin or not end:
        raise SystemExit(f"docs/scaling.md has no comments <!-- {name} --> and <!-- end of {name} -->")
    return "\n".join([before + begin, "", *lines, "", end + after])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scale", description=__doc__)
    parser.add_argument("--measure", action="store_true", help="run the programs, for about a minute")
    parser.add_argument("--save", action="store_true", help="write docs/scaling.md, scaling.json and scaling.svg")
    arguments = parser.parse_args()
    stored = DOCS / "scaling.json"
    figures = measure() if arguments.measure else json.loads(stored.read_text())
    found = simulated(figures)
    sections = {
        "measured": list(measured_table(figures)),
        "imbalance": list(imbalance_table()),
        "simulated": list(simulated_table(found)),
    }
    for lines in sections.values():
        print("\n".join(lines), end="\n\n")
    if arguments.save:
        stored.write_text(json.dumps(figures, indent=1) + "\n")
        (DOCS / "scaling.svg").write_text(picture(found))
        page = (DOCS / "scaling.md").read_text()
        for name, lines in sections.items():
            page = with_section(page, name, lines)
        (DOCS / "scaling.md").write_text(page)


if __name__ == "__main__":
    main()
