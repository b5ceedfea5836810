"""Makes a release: sets version, changelog and citation, builds and checks the packages, commits and tags.

Nothing is uploaded. Whatever goes wrong, the files are as they were before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from releasing.texts import (
    CHANGELOG,
    CITATION,
    VERSION_FILE,
    NotReleasable,
    check_version,
    section_of,
    version_of,
    with_citation,
    with_dated_section,
    with_version,
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/release", description=__doc__)
    parser.add_argument("root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("version", help="the version to release, such as 0.2.0")
    parser.add_argument("--dry-run", action="store_true", help="do all but commit and tag, then put the files back")
    given = parser.parse_args()
    try:
        release(given.root, given.version, dry_run=given.dry_run)
    except NotReleasable as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


def release(root: Path, version: str, *, dry_run: bool) -> None:
    check_checkout(root)
    released = {tag.removeprefix("v") for tag in git(root, "tag", "--list", "v[0-9]*").split()}
    day = datetime.now(UTC).date()
    before = {name: (root / name).read_text(encoding="utf-8") for name in (VERSION_FILE, CHANGELOG, CITATION)}
    check_version(version, version_of(before[VERSION_FILE]), released)
    after = {
        VERSION_FILE: with_version(before[VERSION_FILE], version),
        CHANGELOG: with_dated_section(before[CHANGELOG], version, day),
        CITATION: with_citation(before[CITATION], version, day),
    }
    kept = False
    try:
        write(root, after)
        if subprocess.run([root / "scripts" / "package"], cwd=root, check=False).returncode:
            raise NotReleasable("scripts/package failed: see above. The files are as they were before")
        if not dry_run:
            git(root, "commit", "--quiet", "--message", f"Release {version}", *after)
            kept = True
            notes = section_of(after[CHANGELOG], version)
            git(root, "tag", "--annotate", "--cleanup=whitespace", f"v{version}", "--message", notes)
    finally:
        if not kept:
            write(root, before)
    if dry_run:
        print(f"{version} can be released. The files are as they were; dist/ has the packages")
    else:
        print(f"{version} is committed and tagged v{version}. Nothing is uploaded. What is left:")
        print(f"  git push --atomic origin HEAD v{version}")
        print("  .venv-build/bin/twine upload dist/*")


def check_checkout(root: Path) -> None:
    changed = git(root, "status", "--porcelain").strip()
    if changed:
        raise NotReleasable(f"the checkout has changes that are not committed:\n{changed}")
    branch = git(root, "rev-parse", "--abbrev-ref", "HEAD").strip()
    if branch != "main":
        raise NotReleasable(f"this is branch {branch}; releases are made of main")


def write(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NotReleasable(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
