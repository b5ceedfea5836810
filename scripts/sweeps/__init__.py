"""Proofs of ``gpuexec bench`` that take minutes: see scripts/prove-bench."""
