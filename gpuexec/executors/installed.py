"""Whether this environment has what a requirement asks for: nothing is installed here, so only a look will do."""

from __future__ import annotations

import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from gpuexec.executors.requirement_lines import Line

_ARCHIVES = (".whl", ".tar.gz", ".zip")
_CONDA = re.compile(r"^(?:[^:\s]+::)?(?P<name>[A-Za-z0-9._-]+?)\s*(?P<version>(?:[=<>!~\s].*)?)$")
_CANNOT_CHECK = "it is not a requirement by name and version, so it cannot be checked"


def problem_of(line: Line) -> str | None:
    """Return what is wrong with the environment, as far as a line of requirements tells; ``None`` if it is met."""
    text = line.text
    if line.is_editable or _is_place(text):
        return _problem_of_place(text, line.folder, is_editable=line.is_editable)
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return _CANNOT_CHECK
    if line.is_constraint and not _is_installed(requirement.name):
        return None
    return _problem_of(requirement, "", frozenset(), line.folder)


def problem_of_conda(text: str) -> str | None:
    """Return what is wrong, as far as a match specification of conda tells; ``None`` if it is met.

    Packages are looked for by their name in Python, which is most often that in conda. Builds are not compared.
    """
    match = _CONDA.match(text.strip())
    try:
        specifiers = SpecifierSet(_bounds_of_conda(match["version"].strip())) if match is not None else None
    except InvalidSpecifier:
        specifiers = None
    if match is None or specifiers is None:
        return _CANNOT_CHECK
    if canonicalize_name(match["name"]) == "python":
        is_met = specifiers.contains(platform.python_version(), prereleases=True)
        return None if is_met else f"Python {platform.python_version()} runs here"
    return _problem_of_version(match["name"], specifiers)


def _bounds_of_conda(version: str) -> str:
    """Return conda's way to bound a version in that of Python: "=1.2" is any 1.2, "=1.2=build" and " 1.2" are 1.2."""
    if not version or version[0] in "<>!~" or version.startswith("=="):
        return version
    if not version.startswith("="):
        return f"=={version.split(maxsplit=1)[0]}"
    number, _, build = version[1:].partition("=")
    number = number.removesuffix(".*")
    return f"=={number}" if build else f"=={number}.*"


def _problem_of(requirement: Requirement, extra: str, seen: frozenset[tuple[str, str]], folder: Path) -> str | None:
    """``extra``: the one that asks for it. ``seen``: extras that are being checked, since they may form a circle."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
        return None
    name = requirement.name
    problem = _problem_of_version(name, requirement.specifier)
    if problem is None and requirement.url is not None:
        problem = _problem_of_origin(metadata.distribution(name), requirement.url, folder, is_editable=False)
    if problem is not None:
        return problem
    for wanted in sorted(requirement.extras):
        if (canonicalize_name(name), wanted) not in seen:
            problem = _problem_of_extra(name, wanted, seen, folder)
            if problem is not None:
                return problem
    return None


def _problem_of_extra(name: str, extra: str, seen: frozenset[tuple[str, str]], folder: Path) -> str | None:
    distribution = metadata.distribution(name)
    provided = {canonicalize_name(one) for one in distribution.metadata.get_all("Provides-Extra") or ()}
    if canonicalize_name(extra) not in provided:
        return f"{name} {distribution.version}, which is installed, has no extra {extra!r}"
    for text in distribution.requires or ():
        needed = Requirement(text)
        if needed.marker is None or "extra" not in str(needed.marker):
            continue
        problem = _problem_of(needed, extra, seen | {(canonicalize_name(name), extra)}, folder)
        if problem is not None:
            return f"for its extra {extra!r}, {problem}"
    return None


def _problem_of_version(name: str, specifiers: SpecifierSet) -> str | None:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return None if specifiers.contains(version, prereleases=True) else f"{name} {version} is installed"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


# ---- packages by the place they come from ------------------------------------------------------------------


def _is_place(text: str) -> bool:
    if " @ " in text or re.match(r"^[A-Za-z0-9._-]+(\[.*\])?\s*@", text):
        return False  # a requirement by name and place
    return text.startswith((".", "/", "~", "file:")) or "://" in text or text.lower().endswith(_ARCHIVES)


def _problem_of_place(place: str, folder: Path, *, is_editable: bool) -> str | None:
    place = re.sub(r"\[[^\[\]]*\]$", "", place)
    name = urlsplit(place).path.rpartition("/")[2] if "://" in place else Path(place).name
    if name.lower().endswith(_ARCHIVES):
        return _problem_of_archive(unquote(name))
    for distribution in metadata.distributions():
        if _problem_of_origin(distribution, place, folder, is_editable=is_editable) is None:
            return None
    return f"nothing that is installed comes from there{' as an editable package' if is_editable else ''}"


def _problem_of_archive(name: str) -> str | None:
    """The file's name tells package and version."""
    try:
        package, version = parse_wheel_filename(name)[:2] if name.endswith(".whl") else parse_sdist_filename(name)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return _CANNOT_CHECK
    return _problem_of_version(package, SpecifierSet(f"=={version}"))


def _problem_of_origin(distribution: metadata.Distribution, url: str, folder: Path, *, is_editable: bool) -> str | None:
    """Compare where a package was installed from (PEP 610) with where it is to come from."""
    name = f"{distribution.name} {distribution.version}"
    recorded: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not recorded:
        is_archive = urlsplit(url).path.lower().endswith(_ARCHIVES)
        problem = _problem_of_archive(unquote(urlsplit(url).path.rpartition("/")[2])) if is_archive else ""
        return None if problem is None else f"{name} is installed, and not from there"
    if is_editable and not recorded.get("dir_info", {}).get("editable"):
        return f"{name} is installed, and not as an editable package"
    wanted, revision = _split_revision(url.partition("#")[0])
    same = _place(wanted, folder) == _place(recorded.get("url", ""), folder)
    vcs = recorded.get("vcs_info", {})
    if same and (revision is None or revision in (vcs.get("requested_revision"), vcs.get("commit_id"))):
        return None
    return f"{name} is installed from {recorded.get('url')}" + (f" at {vcs['commit_id']}" if vcs else "")


def _split_revision(url: str) -> tuple[str, str | None]:
    _, plus, rest = url.partition("+")
    if not plus or "://" not in rest:
        return url, None
    head, at, revision = rest.rpartition("@")
    return (head, revision) if at and "/" not in revision and "//" in head else (rest, None)


def _place(url: str, folder: Path) -> str:
    """Return one form of a place: a folder of this machine, or an address without its ending."""
    parts = urlsplit(url)
    if parts.scheme == "file" or "://" not in url:
        return str((folder / Path(unquote(parts.path)).expanduser()).resolve())
    return url.rstrip("/").removesuffix(".git")
