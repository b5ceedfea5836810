"""``python -m gpuexec.worker SOCKET_FD RECORDER_FD DRIVER_PID``: started by `gpuexec.processes.spawn` only."""

import sys

from gpuexec.worker.bootstrap import main

if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
