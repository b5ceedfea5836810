"""A tiny process per run that outlives a killed driver just long enough to end what the driver has started.

That is the process groups of its workers and, if the run has one, its MPS control daemon.

The parent-death signal reaches a worker but not the processes its stage started; those are in the worker's process
group. The guardian keeps the list of groups and waits for end of file on a pipe whose other end only the driver holds.
It is a POSIX shell: it starts in a millisecond and needs little memory. It runs in its own session, so Ctrl-C, a
closing terminal or a kill of the driver's process group does not end it.

It cannot reach a process that a stage moved to a session of its own (``setsid``).
"""

from __future__ import annotations

import subprocess

_MPS_PATIENCE = 50  # tenths of a second
_SCRIPT = """
trap '' INT TERM HUP QUIT
groups= daemon= servers= folder= program=
while read -r verb group; do
  case $verb in
    watch) groups="$groups $group" ;;
    forget) kept=; for g in $groups; do [ "$g" = "$group" ] || kept="$kept $g"; done; groups=$kept ;;
    mps_program) program=$group ;;
    mps_folder) folder=$group ;;
    quit) exit 0 ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done 2>/dev/null
[ -n "$folder" ] || exit 0
export CUDA_MPS_PIPE_DIRECTORY="$folder/pipe" CUDA_MPS_LOG_DIRECTORY="$folder/log"
{ read -r daemon < "$folder/pipe/nvidia-cuda-mps-control.pid"; } 2>/dev/null
{ read -r servers < "/proc/$daemon/task/$daemon/children"; } 2>/dev/null
echo quit | "$program" >/dev/null 2>&1 &
quitter=$!
rounds=0
while [ -n "$daemon" ] && kill -s 0 "$daemon" 2>/dev/null && [ $rounds -lt $1 ]; do
  sleep 0.1
  rounds=$((rounds + 1))
done
kill -s KILL "$quitter" $daemon $servers 2>/dev/null
rm -rf "$folder"
"""


class Guardian:
    """Watches the process groups of one run; call ``close`` when the run is over."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "gpuexec-guardian", str(_MPS_PATIENCE)],
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

    def watch_mps(self, program: str, folder: str) -> None:
        """If the driver dies, have ``program`` end the daemon whose pipes are in ``folder``, and remove that.

        A daemon that does not end within five seconds is killed. Neither name may have a line break.
        """
        self._send(f"mps_program {program}\nmps_folder {folder}\n")

    def forget_mps(self) -> None:
        """Stop watching it: it has ended."""
        self._send("mps_folder\n")

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
