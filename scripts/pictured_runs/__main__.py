"""Runs a pipeline as any program would: python -m pictured_runs NAME; the report is where reports usually are."""

from __future__ import annotations

import sys
from importlib import import_module

from gpuexec import LocalExecutor

if __name__ == "__main__":
    chosen = import_module(f"pictured_runs.{sys.argv[1]}")
    chosen.pipeline().run(LocalExecutor(**chosen.OPTIONS), initial_tasks=chosen.initial_tasks())
