"""Write the pages, or with --check say which of them are not current."""

import sys
from pathlib import Path

from reference.pages import PAGES

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    stale = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    print(f"{'not current' if '--check' in sys.argv else 'written'}: {', '.join(stale) or 'none'}")
    return bool(stale) and "--check" in sys.argv


sys.exit(main())
