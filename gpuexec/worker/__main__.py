"""``python -m gpuexec.worker SOCKET_FD RECORDER_FD DRIVER_PID``: started by `gpuexec.processes.spawn` only."""

import sys

if __name__ == "__main__":  # a pool's processes import this module under another name: nothing is loaded there
    from gpuexec.worker.bootstrap import main

    sys.exit(main(*map(int, sys.argv[1:])))
