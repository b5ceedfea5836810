#!/usr/bin/env python3
"""Checks a built site: scripts/check_site.py FOLDER. Exit status 1 if a link or an asset leads nowhere.

Every link, picture, style and script of every page must be a file of the site, with the anchor that the link names. No
page may load anything from another site: it is read on machines without a network.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
NOT_LOADED = {"canonical", "search", "index", "next", "prev", "author", "help", "copyright"}  # of <link rel=…>


class Page(HTMLParser):
    """The links, loaded assets and anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in LOADS and LOADS[tag] in given and given.get("rel") not in NOT_LOADED:
            self.loaded.append(given[LOADS[tag]])


def problems(site: Path) -> list[str]:
    """Return a line for each link or asset that leads nowhere, and for each asset of another site."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: loads {asset} from another site" for asset in page.loaded if urlsplit(asset).netloc]
        for link in page.links + page.loaded:
            if urlsplit(link).scheme or urlsplit(link).netloc:
                continue
            target, anchor = urldefrag(link)
            there = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            if there.is_dir():
                there /= "index.html"
            if not there.exists():
                found.append(f"{name}: {link} is not in the site")
            elif there in pages and unquote(anchor) not in pages[there].anchors:
                found.append(f"{name}: {link} names an anchor that {there.relative_to(site)} does not have")
    return found


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    found = problems(site)
    print("\n".join(found), file=sys.stderr, end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
