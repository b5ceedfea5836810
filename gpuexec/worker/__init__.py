"""The inside of a worker process: started as ``python -m gpuexec.worker``, with its environment already set.

::

    driver ──► inbox ──► loop ──► StageSession.process ──► outbox ──► driver
                          ├── memory           peaks of this process, on the host and on its GPUs
    bootstrap ──starts────┤   flight recorder  which batch is being processed, and since when
        │                 └── failures         what the stage raised, as a message
        └── orphan, console and log_sink, debugger, gpuexec.stage.stacks
    template ──forks──► bootstrap … leave
        └── import_watch, fork_safety   whether a fork is safe, and which module is to blame if not

A worker imports only the standard library, this package's contract, channel, curator and stage, NVML if it has a GPU,
and what its stage imports. It never creates a CUDA context.
"""
