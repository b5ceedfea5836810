"""Measures the machine itself, without a pipeline of the user's: what ``gpuexec bench --builtin`` does.

`measure` runs the groups of figures one after the other: `transport`, `startup`, `planner`, `host`, `gpu`. `judge` says
what the figures are beside those of earlier runs (`store`) and of a reference file.
"""
