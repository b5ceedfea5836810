"""Benchmarks of gpuexec beside its peers.

* ``toys``       tasks and stages, of gpuexec's or NeMo Curator's base classes, otherwise the same
* ``workloads``  what is run: stages, tasks, how many, and what is to be reached
* ``peers``      one function per peer that runs stages on tasks
* ``one``        one measurement in a process of its own
* ``__main__``   interleaved rounds of all, medians, ratios, the table and the plot
"""
