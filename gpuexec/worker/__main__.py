"""``python -m gpuexec.worker SOCKET_FD DRIVER_PID``: started by `gpuexec.supervise.spawn` only."""

import sys

from gpuexec.worker.bootstrap import main

if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
