"""The inside of a worker process: started as ``python -m gpuexec.worker``, its environment already set.

    bootstrap ──► loop ──► adapter.process_batch ──► outbox ──► driver
        │          └── memory   figures of this process's GPUs
        └── orphan, log_sink

A worker imports only the standard library, this package's contract, channel and bridge, NVML where it has a
GPU, and what its stage imports. It never creates a CUDA context.
"""
