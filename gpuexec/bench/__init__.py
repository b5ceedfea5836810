"""Runs one pipeline with different settings, and says which are best.

`model` says what a sweep is. `space` and `search` decide, without side effects, which trials there are; `runner` runs
each in a process of its own (`trial`) and writes what came of it to `journal`.
"""
