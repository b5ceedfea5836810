"""The site: links that lead nowhere are found, the API is complete, docstrings become lists."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gpuexec

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def check(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/check_site.py", site]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="b.html#there">', ""),
        ('<a href="#here"><p id="here">', ""),
        ('<a href="https://example.org/anything">', ""),
        ('<img src="picture.png">', ""),
        ('<a href="c.html">', "a.html: c.html is not in the site"),
        ('<a href="b.html#gone">', "a.html: b.html#gone names an anchor that b.html does not have"),
        ('<a href="#gone">', "a.html: #gone names an anchor that a.html does not have"),
        ('<img src="gone.png">', "a.html: gone.png is not in the site"),
        ('<script src="https://cdn.example.org/x.js">', "a.html: loads https://cdn.example.org/x.js from another site"),
        (
            '<link rel="stylesheet" href="//cdn.example.org/x.css">',
            "a.html: loads //cdn.example.org/x.css from another site",
        ),
    ],
)
def test_links_and_assets_are_checked(tmp_path: Path, body: str, problem: str):
    (tmp_path / "a.html").write_text(body)
    (tmp_path / "b.html").write_text('<h1 id="there">')
    (tmp_path / "picture.png").touch()
    done = check(tmp_path)
    assert done.stderr.strip() == problem
    assert done.returncode == bool(problem)


def test_every_public_name_is_in_the_reference_once():
    page = (DOCS / "reference/api.md").read_text()
    documented = re.findall(r"^\.\. auto\w+:: gpuexec\.(\w+)$", page, re.MULTILINE)
    assert sorted(documented) == sorted(name for name in gpuexec.__all__ if name != "__version__")


def test_every_page_of_the_tutorial_is_in_its_contents_and_leads_to_the_next():
    pages = sorted((DOCS / "tutorial").glob("[0-9]*.md"), key=lambda page: int(page.stem.partition("-")[0]))
    contents = (DOCS / "tutorial/index.md").read_text()
    assert re.findall(r"^(\d-[\w-]+)$", contents, re.MULTILINE) == [page.stem for page in pages]
    for page, following in itertools.pairwise(pages):
        assert f"]({following.name})." in page.read_text().splitlines()[-1]


def test_lines_that_describe_names_become_items(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    as_list = importlib.import_module("item_lists").as_list
    assert as_list(
        ["Do it.", "", "``a``: one,", "two.", "``b`` and ``c`` (default: 1): three.", "", "More ``d``: no item."]
    ) == [
        "Do it.",
        "",
        "* ``a``: one,",
        "  two.",
        "* ``b`` and ``c`` (default: 1): three.",
        "",
        "More ``d``: no item.",
    ]
    assert as_list(["Text", "``a``: one."]) == ["Text", "", "* ``a``: one."]
