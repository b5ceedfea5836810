"""Read failure capsules without opening their pickles: nothing here runs code from a capsule."""

from __future__ import annotations

import json
import os
import platform
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from gpuexec.capsules.write import FIELDS, FORMAT, FORMAT_VERSION, STAGE, SUMMARY, TASKS, CapsuleContents
from gpuexec.contract.allocation import Allocation
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import CapsuleError


@dataclass(frozen=True, slots=True)
class Capsule:
    """A capsule on disk. ``missing``: the payloads that were too large for it, and how large they were."""

    path: Path
    failure: CapsuleContents
    allocation: Allocation
    summary: str
    versions: Mapping[str, str | None]
    variables_left_out: tuple[str, ...]
    missing: Mapping[str, str]
    cwd: str | None

    @property
    def python(self) -> str:
        """Return the version of Python that ran the batch."""
        return self.versions.get("python") or "of unknown version"

    @property
    def python_differs(self) -> bool:
        """Return whether this process has another minor version of Python, whose byte code differs."""
        return self.python.split(".")[:2] != platform.python_version().split(".")[:2]


def load_capsule(path: str | os.PathLike[str]) -> Capsule:
    """Read the folder of a capsule, but for its pickles: that runs no code. ``gpuexec.replay`` opens them.

    Raises ``CapsuleError`` if the folder is not a capsule, belongs to another user, has another format or is damaged.
    """
    path = Path(path)
    document = _document(path)
    try:
        *earlier, stage = _payloads(path, STAGE, document) or [memoryview(b"")]
        return Capsule(
            path=path,
            failure=CapsuleContents(
                **{**document["failure"], "phase": StagePhase(document["failure"]["phase"])},
                stage_payload=stage,
                earlier_payloads=earlier,
                task_payloads=_payloads(path, TASKS, document),
            ),
            allocation=Allocation.from_dict(document["failure"]["allocation"]),
            summary=(path / SUMMARY).read_text(errors="replace"),
            versions=dict(document["versions"]),
            variables_left_out=tuple(document["variables_left_out"]),
            missing=dict(document["payloads_left_out"]),
            cwd=document["cwd"],
        )
    except OSError as error:
        raise CapsuleError(f"the capsule {path} is damaged: {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, CapsuleError):
            raise
        raise CapsuleError(
            f"the capsule {path} is damaged: {FIELDS} was changed after it was written ({error!r})"
        ) from error


def _document(path: Path) -> dict[str, Any]:
    try:
        owner = path.stat().st_uid
        document = json.loads((path / FIELDS).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CapsuleError(f"{path} is not a failure capsule: {_why_no_capsule(path)}") from None
    except OSError as error:
        raise CapsuleError(f"the capsule {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CapsuleError(f"the capsule {path} is damaged: {FIELDS} is not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CapsuleError(f"{path} is not a failure capsule: its {FIELDS} was written by another program")
    if owner != os.getuid():
        raise CapsuleError(
            f"the capsule {path} belongs to another user (uid {owner}), and opening it runs code from it; "
            "if you trust that user, copy the capsule and replay the copy"
        )
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise CapsuleError(
            f"the capsule {path} has format {version!r}, and this gpuexec reads format {FORMAT_VERSION}: replay it "
            "with the gpuexec that wrote it (its summary.txt says which)"
        )
    return document


def _why_no_capsule(path: Path) -> str:
    if path.is_dir():
        return f"there is no {FIELDS} in it"
    return "it is a file; give the folder" if path.exists() else "there is no such folder"


def _payloads(path: Path, name: str, document: Mapping[str, Any]) -> list[memoryview]:
    content = memoryview((path / name).read_bytes())
    lengths = [int(length) for length in document[name]["lengths"]]
    if len(content) != sum(lengths) or zlib.crc32(content) != document[name]["crc32"]:
        raise CapsuleError(f"the capsule {path} is damaged: {name} was changed after it was written")
    return [content[start:stop] for start, stop in pairwise((0, *accumulate(lengths)))]
