"""Every Python snippet of README.md runs as it stands; later ones continue the first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
NATIVE = [snippet for snippet in SNIPPETS if "nemo_curator" not in snippet]
CURATOR = [snippet for snippet in SNIPPETS if "nemo_curator" in snippet]  # run by tests/curator/test_readme.py


def run_snippets(folder: Path, *snippets: str) -> str:
    """Run snippets as one script in ``folder``; return what it prints."""
    script = folder / "snippet.py"
    script.write_text("\n\n".join(snippets))
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_snippets():
    assert len(NATIVE) == 2
    assert len(CURATOR) == 1


def test_first_snippet_prints_what_its_comment_says(tmp_path: Path):
    (promised,) = re.findall(r"print\(.*\)  # (.*)", NATIVE[0])
    assert run_snippets(tmp_path, NATIVE[0]).strip() == promised


@pytest.mark.parametrize("snippet", NATIVE[1:], ids=range(2, len(NATIVE) + 1))
def test_later_snippets_run_after_the_first(snippet: str, tmp_path: Path):
    run_snippets(tmp_path, NATIVE[0], snippet)
