"""The inside of a worker process: started as ``python -m gpuexec.worker``, its environment already set.

    driver ──► inbox ──► loop ──► adapter.process_batch ──► outbox ──► driver
                          ├── memory   figures of this process's GPUs
    bootstrap ──starts────┘   flight recorder: which batch, since when
        └── orphan, log_sink, stacks

A worker imports only the standard library, this package's contract, channel and bridge, NVML where it has a
GPU, and what its stage imports. It never creates a CUDA context.
"""
