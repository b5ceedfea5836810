"""What a release changes in the files that name the version. Pure: text in, text out."""

from __future__ import annotations

import re
from datetime import date

from packaging.version import InvalidVersion, Version

VERSION_FILE, CHANGELOG, CITATION = "gpuexec/_version.py", "CHANGELOG.md", "CITATION.cff"

_VERSION_LINE = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)
_UNRELEASED = re.compile(r"^## (?P<version>\S+) \(unreleased\)$", re.MULTILINE)
_HEADING = re.compile(r"^## ", re.MULTILINE)
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")


class NotReleasable(Exception):
    """Why there can be no release; says what to do."""


def version_of(version_file: str) -> str:
    found = _VERSION_LINE.search(version_file)
    if found is None:
        raise NotReleasable(f'{VERSION_FILE} has no line __version__ = "…"')
    return found["version"]


def check_version(wanted: str, current: str, released: set[str]) -> None:
    """Raise `NotReleasable` unless the version may follow those released before.

    It may be the current one as long as that is not released: the first release has the version of the files.
    """
    try:
        version = Version(wanted)
    except InvalidVersion:
        version = None
    if version is None or not _SEMANTIC.fullmatch(wanted):
        raise NotReleasable(f"{wanted!r} is not a version such as 1.2.3 or 1.2.3rc1")
    if wanted in released:
        raise NotReleasable(f"{wanted} is released already: tag v{wanted} exists")
    newest = max([Version(name) for name in released], default=None)
    if newest is not None and version <= newest:
        raise NotReleasable(f"{wanted} is not later than {newest}, the newest release")
    if version < Version(current):
        raise NotReleasable(f"{wanted} is earlier than {current}, the version in {VERSION_FILE}")


def with_version(version_file: str, version: str) -> str:
    return _VERSION_LINE.sub(f'__version__ = "{version}"', version_file)


def with_dated_section(changelog: str, version: str, day: date) -> str:
    """Give the unreleased section of the changelog its version and day. Raise `NotReleasable` if it is empty."""
    found = _UNRELEASED.search(changelog)
    if found is None:
        raise NotReleasable(f'{CHANGELOG} has no heading "## VERSION (unreleased)": there is nothing to release')
    following = _HEADING.search(changelog, found.end())
    section = changelog[found.end() : following.start() if following else None]
    if not re.search(r"^\* ", section, re.MULTILINE):
        raise NotReleasable(f"the unreleased section of {CHANGELOG} has no entries")
    return changelog[: found.start()] + f"## {version} ({day:%Y-%m-%d})" + changelog[found.end() :]


def section_of(changelog: str, version: str) -> str:
    """Return the changelog's section of a version, without its heading."""
    heading = re.search(rf"^## {re.escape(version)} \([^)]*\)$", changelog, re.MULTILINE)
    if heading is None:
        raise NotReleasable(f"{CHANGELOG} has no section for {version}")
    following = _HEADING.search(changelog, heading.end())
    return changelog[heading.end() : following.start() if following else None].strip()


def with_citation(citation: str, version: str, day: date) -> str:
    """Set version and day in CITATION.cff. Raise `NotReleasable` if it lacks one of them."""
    for key, value in (("version", version), ("date-released", f"{day:%Y-%m-%d}")):
        citation, count = re.subn(rf"^{key}: .*$", f"{key}: {value}", citation, flags=re.MULTILINE)
        if count != 1:
            raise NotReleasable(f"{CITATION} has {count} lines {key!r}, and should have one")
    return citation
