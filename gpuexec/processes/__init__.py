"""Worker processes seen from outside: starting them, waiting for them, and making sure they are gone.

* ``spawn``       environment and process of one worker
* ``child``       a worker's process, whoever is its parent
* ``template``    a process that has imported modules, from which workers are forked
* ``kept_templates``  templates between the runs of a program
* ``variables``   which environment variables a run's workers start with, and which tell libraries a worker's share
* ``refusal``     why the system refuses a new process
* ``exit_watch``  a descriptor that becomes readable when a process exits
* ``watch``       the driver's only wait point: sockets, output pipes and process exits in one selector
* ``interrupts``  delivers Ctrl-C and SIGTERM only while the driver waits
* ``reap``        killing and reaping a worker with everything it started, and describing why it exited
* ``guardian``    kills the workers' process groups if the driver dies without cleaning up
* ``gpu_watch``   a thread that waits for GPU faults and wakes the driver
"""
