"""A tiny process per run that outlives a killed driver just long enough to kill its workers' process groups.

The parent-death signal reaches a worker but not the processes its stage started; those are in the worker's process
group. The guardian keeps the list of groups and waits for end of file on a pipe whose other end only the driver holds.
It is a POSIX shell: it starts in a millisecond and needs little memory. It runs in its own session, so Ctrl-C, a
closing terminal or a kill of the driver's process group does not end it.

It cannot reach a process that a stage moved to a session of its own (``setsid``).
"""

from __future__ import annotations

import subprocess

_SCRIPT = """
trap '' INT TERM HUP QUIT
groups=
while read -r verb group; do
  case $verb in
    watch) groups="$groups $group" ;;
    forget) kept=; for g in $groups; do [ "$g" = "$group" ] || kept="$kept $g"; done; groups=$kept ;;
    quit) exit 0 ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done 2>/dev/null
"""


class Guardian:
    """Watches the process groups of one run; call ``close`` when the run is over."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "gpuexec-guardian"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )

    def watch(self, group: int) -> None:
        """Kill this process group if the driver dies."""
        self._send(f"watch {group}\n")

    def forget(self, group: int) -> None:
        """Stop watching a group that is gone: the kernel may soon reuse its number."""
        self._send(f"forget {group}\n")

    def close(self) -> None:
        """End the guardian without killing any group; harmless if it is already gone."""
        self._send("quit\n")
        self._process.communicate()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except (BrokenPipeError, ValueError):
            return  # The guardian was killed. A worker still has its socket and its parent-death signal.
