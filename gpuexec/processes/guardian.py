"""A tiny process per run that outlives a killed driver just long enough to kill its workers' groups.

The parent-death signal reaches a worker but not the processes its stage started; those are in the
worker's process group. The guardian holds the list of groups and waits for end of file on a pipe whose
other end only the driver holds. It is a POSIX shell: it starts in a millisecond and needs no memory. It
has a session of its own, so neither Ctrl-C nor a closing terminal nor a kill of the driver's process
group ends it.

What it cannot reach: a process that a stage moved to a session of its own (``setsid``).
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
    dismiss) exit 0 ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done 2>/dev/null
"""


class Guardian:
    """Watches process groups on behalf of one run; ``dismiss`` it when the run is over."""

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
        self._emit(f"watch {group}\n")

    def forget(self, group: int) -> None:
        """The group is gone; its number may soon be somebody else's."""
        self._emit(f"forget {group}\n")

    def dismiss(self) -> None:
        """End the guardian; harmless when it is already gone."""
        self._emit("dismiss\n")
        self._process.communicate()

    def _emit(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except (BrokenPipeError, ValueError):  # somebody killed it: the other two nets still hold
            return
