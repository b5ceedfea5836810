"""Stands for ``nvidia-cuda-mps-control``, as far as NVIDIA's manual says what that does. No GPU is involved.

With -d it starts a daemon, which writes its pid to the folder of pipes and listens there. A server is its child, as it
would be once a client has come. Without arguments it passes the lines that it reads on to the daemon, which obeys
"quit". It is run by `install`ed scripts, so it imports nothing of the tests.

MPS_STAND_IN=refuses: -d fails. MPS_STAND_IN=deaf: the daemon does not obey.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

PIPES = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
LOGS = Path(os.environ.get("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps"))
MODE = os.environ.get("MPS_STAND_IN", "")
PID_FILE, CONTROL = PIPES / "nvidia-cuda-mps-control.pid", PIPES / "control"


def start() -> None:
    if MODE == "refuses":
        sys.exit("Cannot create the pipes")
    if os.fork():
        return  # before the daemon is ready, as daemons do
    os.setsid()
    time.sleep(0.05)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(CONTROL))
    listener.listen()
    server = os.fork()
    if not server:
        listener.close()
        while True:
            signal.pause()
    (LOGS / "control.log").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    PID_FILE.write_text(str(os.getpid()))
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(100).split() == [b"quit"] and MODE != "deaf":
                os.kill(server, signal.SIGTERM)
                os.waitpid(server, 0)
                PID_FILE.unlink()
                return


def pass_on() -> None:
    for line in sys.stdin:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(CONTROL))
            connection.sendall(line.encode())
            connection.recv(1)


if __name__ == "__main__":
    start() if sys.argv[1:] == ["-d"] else pass_on()
