"""The release script: what it changes, what it refuses, and that it leaves the files as they were if anything fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DAY = date(2030, 1, 31)
CHANGELOG = "# Changelog\n\n## 0.2.0 (unreleased)\n\n### Added\n\n* A thing.\n\n## 0.1.0 (2029-01-01)\n\n* The first.\n"


@pytest.fixture
def texts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from releasing import texts

    return texts


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with the files that a release changes, and a script in place of scripts/package that may fail."""
    root = tmp_path / "checkout"
    (root / "gpuexec").mkdir(parents=True)
    (root / "scripts").mkdir()
    (root / "gpuexec/_version.py").write_text('__version__ = "0.1.0"\n')
    (root / "CHANGELOG.md").write_text(CHANGELOG.replace("0.2.0", "0.1.1"))
    shutil.copy(ROOT / "CITATION.cff", root)
    package = root / "scripts/package"
    package.write_text("#!/bin/sh\ngrep -q '\"0.2.0\"' gpuexec/_version.py && test ! -e ../fail\n")
    package.chmod(0o755)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=first")
    git(root, "tag", "v0.1.0")
    return root


def git(root: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", *settings, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def release(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    return subprocess.run(
        [sys.executable, "-m", "releasing", str(root), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **dict.fromkeys(names, "a@b.c"), "PYTHONPATH": str(ROOT / "scripts")},
    )


def test_a_release_dates_the_changelog_sets_the_version_and_tags(checkout):
    done = release(checkout, "0.2.0")
    assert done.returncode == 0, done.stderr
    assert (checkout / "gpuexec/_version.py").read_text() == '__version__ = "0.2.0"\n'
    assert "\nversion: 0.2.0\n" in (checkout / "CITATION.cff").read_text()
    assert "(unreleased)" not in (checkout / "CHANGELOG.md").read_text()
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "describe", "--exact-match") == "v0.2.0"
    assert git(checkout, "tag", "--list", "--format=%(contents)", "v0.2.0") == "### Added\n\n* A thing."


def test_a_dry_run_and_a_failure_leave_everything_as_it_was(checkout):
    assert release(checkout, "0.2.0", "--dry-run").returncode == 0
    assert git(checkout, "status", "--porcelain") == ""
    (checkout.parent / "fail").touch()
    failed = release(checkout, "0.2.0")
    assert failed.returncode == 1
    assert "scripts/package failed" in failed.stderr
    assert git(checkout, "status", "--porcelain") == ""
    assert git(checkout, "tag") == "v0.1.0"


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.1.0", "released already"),
        ("0.0.9", "not later than 0.1.0"),
        ("1.2", "is not a version"),
        ("v0.2.0", "is not a version"),
        ("next", "is not a version"),
    ],
)
def test_versions_that_cannot_follow(checkout, version, told):
    done = release(checkout, version)
    assert done.returncode == 1
    assert told in done.stderr


def test_a_checkout_that_is_not_clean_main_is_refused(checkout):
    git(checkout, "switch", "--quiet", "--create", "topic")
    assert "branch topic" in release(checkout, "0.2.0").stderr
    git(checkout, "switch", "--quiet", "main")
    (checkout / "new.txt").touch()
    assert "not committed" in release(checkout, "0.2.0").stderr


def test_the_changelog_must_have_something_to_release(texts):
    assert texts.with_dated_section(CHANGELOG, "0.3.0", DAY).count("## 0.3.0 (2030-01-31)") == 1
    with pytest.raises(texts.NotReleasable, match="nothing to release"):
        texts.with_dated_section(CHANGELOG.replace("unreleased", "2029-02-01"), "0.3.0", DAY)
    with pytest.raises(texts.NotReleasable, match="no entries"):
        texts.with_dated_section(CHANGELOG.replace("* A thing.", ""), "0.3.0", DAY)


def test_the_files_of_this_checkout_can_be_released(texts):
    read = {name: (ROOT / name).read_text() for name in (texts.VERSION_FILE, texts.CHANGELOG, texts.CITATION)}
    version = texts.version_of(read[texts.VERSION_FILE])
    assert texts.version_of(texts.with_version(read[texts.VERSION_FILE], "9.0.0")) == "9.0.0"
    dated = texts.with_dated_section(read[texts.CHANGELOG], "9.0.0", DAY)
    assert texts.section_of(dated, "9.0.0")
    assert f"version: {version}\n" in read[texts.CITATION], "CITATION.cff names another version than the package"
    assert "date-released: 2030-01-31" in texts.with_citation(read[texts.CITATION], "9.0.0", DAY)
