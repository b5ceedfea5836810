"""What runs the blocks of pages notices what is wrong with them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "scripts"))

from snippets.blocks import Block, read_blocks  # noqa: E402
from snippets.expected import alike, missing_lines  # noqa: E402
from snippets.pages import Page as PageOfBlocks  # noqa: E402
from snippets.pages import in_one_script, is_run, problem_of, run_page  # noqa: E402
from snippets.session import Session, SnippetFailed, clean_environment  # noqa: E402

PAGE = """# A page

<!-- file: one.py -->
```python
x = 1
```

* An item

  <!-- exit: 3 -->
  ```sh
  exit 3
  ```

<!-- replace in one.py: x = 1 -->
```python
x = 2
```

<!-- runs: no, it needs a GPU -->
```sh
nvidia-smi
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, clean_environment(tmp_path))


def shell(text: str, **marks: str) -> Block:
    return Block(Path("page.md"), 1, "sh", text, marks)


def test_blocks_have_their_comments_lines_and_texts(page: Path):
    first, second, third, fourth = read_blocks(page)
    assert (first.language, first.text, first.marks, first.line) == ("python", "x = 1\n", {"file": "one.py"}, 4)
    assert (second.text, second.marks) == ("exit 3\n", {"exit": "3"})
    assert (third.edits, third.marks) == ("one.py", {"replace in": "x = 1"})
    assert fourth.marks == {"runs": "no, it needs a GPU"}


def test_a_comment_that_says_nothing_is_an_error(tmp_path: Path):
    path = tmp_path / "page.md"
    path.write_text("<!-- just a remark -->\n```sh\ntrue\n```\n")
    with pytest.raises(ValueError, match="none of the known comments"):
        read_blocks(path)


def test_files_are_saved_and_changed(page: Path, session: Session):
    for block in read_blocks(page)[:3]:
        session.run(block)
    assert (page.parent / "one.py").read_text() == "x = 2\n"


def test_a_change_must_find_its_place_once(page: Path, session: Session):
    first, _, third, _ = read_blocks(page)
    session.run(first)
    session.run(third)
    with pytest.raises(SnippetFailed, match="has 'x = 1' 0 times, not once"):
        session.run(third)


def test_what_a_shell_block_exports_and_where_it_went_holds_for_the_next(session: Session, tmp_path: Path):
    session.run(shell("mkdir below\ncd below\nname=value\n"))
    assert session.run(shell('echo "$name" "$PWD"')) == f"value {tmp_path / 'below'}\n"


@pytest.mark.parametrize(
    ("text", "exit_status", "fails"),
    [
        ("exit 3", "0", True),
        ("exit 3", "3", False),
        ("exit 3", "any", False),
        ("true", "1", True),
        ("false | true", "0", True),
    ],
)
def test_the_exit_status_must_be_the_one_that_is_named(session: Session, text: str, exit_status: str, fails: bool):
    block = shell(text, exit=exit_status)
    if not fails:
        session.run(block)
        return
    with pytest.raises(SnippetFailed, match="exit status"):
        session.run(block)


def test_a_block_that_does_not_end_is_killed_with_what_it_started(session: Session):
    session.limit_s = 1
    with pytest.raises(SnippetFailed, match="not done after 1 s"):
        session.run(shell("sleep 60 & echo $!; wait"))


def test_the_output_must_contain_what_the_page_shows(session: Session):
    session.run(shell("echo 17 files in 2.5 s"))
    session.run(Block(Path("page.md"), 5, "text", "1,234 files in 0.1 s\n"))
    session.run(shell("echo something else"))
    with pytest.raises(SnippetFailed, match="do not print '3 files'"):
        session.run(Block(Path("page.md"), 9, "text", "3 files\n"))


def test_the_environment_is_that_of_a_new_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "5")
    environment = clean_environment(tmp_path)
    assert "SECRET_OF_MINE" not in environment
    assert environment["HOME"] == str(tmp_path)
    assert (environment["PATH"], environment["PIP_TIMEOUT"]) == (os.environ["PATH"], "5")


@given(
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])),
)
def test_a_line_is_found_in_itself_whatever_surrounds_it(line: str, around: str):
    assert not missing_lines(line, f"first\n{line}\nlast {around}")


def test_figures_frames_and_white_space_may_differ_but_not_words():
    assert alike("│ read   │ 1 to 2 │ 1.5 s ━━━") == alike("read 3 to 17 0.2 s")
    assert missing_lines("│ read │\n│ write │", "│ read      │ x │\n") == ["│ write │"]
    assert not missing_lines("page: …/report.html", "page: /home/you/.local/state/run/report.html")
    assert missing_lines("page: …/report.html", "page: /home/you/report.txt") == ["page: …/report.html"]


def test_the_end_of_a_longer_id_is_not_the_id():
    assert missing_lines("1_0 GOOD", "0_1_0 GOOD") == ["1_0 GOOD"]
    assert not missing_lines("0_1_0 GOOD", "worker: 0_1_0 GOOD")


@pytest.mark.parametrize(
    ("language", "marks", "curator", "expected"),
    [
        ("python", {}, False, True),
        ("python", {}, True, False),
        ("python", {"runs": "curator"}, True, True),
        ("python", {"runs": "curator"}, False, False),
        ("sh", {"runs": "no, it needs SLURM"}, False, False),
        ("text", {}, False, True),
        ("json", {}, False, False),
    ],
)
def test_which_blocks_are_run_where(language: str, marks: dict[str, str], curator: bool, expected: bool):
    assert is_run(Block(Path("page.md"), 1, language, "", marks), curator=curator) is expected


@pytest.mark.parametrize(
    ("language", "marks", "problem"),
    [
        ("fortran", {}, "page.md:1: nothing is known of blocks in 'fortran'"),
        ("sh", {"runs": "sometimes"}, "page.md:1: it runs 'sometimes', which is none of `no, REASON` and `curator`"),
        ("sh", {"runs": "no"}, "page.md:1: 'no' gives no reason"),
        ("sh", {"runs": "no, it needs SLURM"}, ""),
        ("python", {"runs": "curator"}, ""),
        ("json", {}, ""),
    ],
)
def test_what_a_page_says_of_a_block_must_be_understood(language: str, marks: dict[str, str], problem: str):
    assert problem_of(Block(Path("page.md"), 1, language, "", marks)) == problem


def test_python_blocks_of_a_page_continue_each_other(tmp_path: Path):
    blocks = [
        Block(ROOT / "docs/page.md", line, "python", text) for line, text in enumerate(("x = 1\n", "assert x == 1\n"))
    ]
    page = PageOfBlocks(ROOT / "docs/page.md", tuple(blocks))
    assert [block.language for block in in_one_script(page)] == ["python", "sh"]
    run_page(page, tmp_path)
