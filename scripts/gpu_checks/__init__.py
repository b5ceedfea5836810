"""Checks of what gpuexec promises, on real GPUs: ``scripts/gpu-check``. docs/gpu-truth.md describes them.

Each check runs in a process of its own (`one`), so that a crash, a hang or a broken CUDA context spoils no
other.
What is compared with what is decided by pure functions (`smi`, `compare`); the modules of the groups read and run.
"""
