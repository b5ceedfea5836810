"""A folder, an environment and a home in which the blocks of pages are run one after the other, as a reader would."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from snippets.blocks import Block
from snippets.expected import missing_lines


class SnippetFailed(Exception):
    """A block did not do what its page says."""


@dataclass
class Session:
    """Runs blocks. What a shell block exports and where it has gone to holds for the blocks after it."""

    folder: Path
    environment: dict[str, str]
    limit_s: float = 600

    def __post_init__(self) -> None:
        self.printed = ""

    def run(self, block: Block) -> str:
        """Do what a block says; return what it printed. Raises ``SnippetFailed``."""
        for name, act in (("file", self._save), ("add to", self._add), ("replace in", self._replace)):
            if name in block.marks:
                act(block)
                return ""
        if block.language == "sh":
            self.printed = self._shell(block)
            return self.printed
        if block.language == "text" and self.printed:
            lines = missing_lines(block.text, self.printed)
            if lines:
                raise SnippetFailed(
                    f"{block.where}: the commands before do not print {lines[0]!r}, but\n{self.printed}"
                )
            self.printed = ""
        return ""

    def _save(self, block: Block) -> None:
        (self.folder / block.marks["file"]).write_text(block.text, encoding="utf-8")

    def _add(self, block: Block) -> None:
        before = block.marks["add to"].removeprefix("before ").strip('"')
        self._edit(block, before, f"{block.text.rstrip()}\n\n\n{before}")

    def _replace(self, block: Block) -> None:
        self._edit(block, block.marks["replace in"], block.text.rstrip())

    def _edit(self, block: Block, old: str, new: str) -> None:
        path = self.folder / block.edits
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SnippetFailed(f"{block.where}: {block.edits} has {old!r} {text.count(old)} times, not once")
        path.write_text(text.replace(old, new), encoding="utf-8")

    def _shell(self, block: Block) -> str:
        state = self.folder / ".session"
        keep = f"status=$?; export -p > {shlex.quote(str(state))}; exit $status"
        script = f"trap {shlex.quote(keep)} EXIT\nset -aeo pipefail\n{block.text}"
        status, printed = self._output_of(script, block)
        expected = block.marks.get("exit", "0")
        if expected not in ("any", str(status)):
            raise SnippetFailed(f"{block.where}: exit status {status}, not {expected}:\n{block.text}\n{printed}")
        self._take_over(state)
        return printed

    def _output_of(self, script: str, block: Block) -> tuple[int, str]:
        """Return a script's exit status and what it has printed. One that takes too long is killed."""
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, _ = process.communicate()
            raise SnippetFailed(
                f"{block.where}: not done after {self.limit_s:.0f} s:\n{block.text}\n{printed.decode(errors='replace')}"
            ) from None
        return process.returncode, printed.decode(errors="replace")

    def _take_over(self, state: Path) -> None:
        """Read what the block has exported, and its working directory."""
        read = f"set -a; . {shlex.quote(str(state))}; exec env -0"
        listed = subprocess.run(["bash", "-c", read], check=True, env={}, capture_output=True).stdout
        self.environment = dict(item.split("=", 1) for item in listed.decode().split("\0") if "=" in item)
        self.folder = Path(self.environment.get("PWD", self.folder))
        state.unlink()


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a new user: an empty home, and of ours only what finds programs and packages."""
    kept = ("PATH", "TMPDIR", "LANG", "LC_ALL", "SSL_CERT_FILE", "SSL_CERT_DIR")
    ours = {name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")}
    return {**ours, "HOME": str(home), "COLUMNS": "88", "PIP_NO_CACHE_DIR": "1", **more}
