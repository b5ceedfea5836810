"""Worker processes from outside: starting them, waiting for them, and making sure they are gone.

* ``spawn``     environment and process of one worker
* ``guardian``  kills what is left if the driver dies without a word
* ``watch``     the one wait point: sockets, output pipes and process ends in one selector
* ``reap``      ending a worker with everything it started, and why it ended
"""
