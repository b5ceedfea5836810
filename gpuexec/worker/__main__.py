"""``python -m gpuexec.worker``: started by `gpuexec.processes` only.

``SOCKET_FD RECORDER_FD DRIVER_PID`` starts a worker, ``template CONTROL_FD DRIVER_PID`` a template.
"""

import sys

if __name__ == "__main__":  # a pool's processes import this module under another name: nothing is loaded there
    from gpuexec.worker import bootstrap

    if sys.argv[1] == "template":
        bootstrap.serve_as_template(*map(int, sys.argv[2:]))
    sys.exit(bootstrap.main(*map(int, sys.argv[1:])))
