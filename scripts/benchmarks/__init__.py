"""Benchmarks that compare gpuexec with its peers.

* ``toys``       tasks and stages, on the base classes of gpuexec or of NeMo Curator
* ``pipelines``  stages and tasks of the rows with filters and examples
* ``workloads``  what is run: stages, tasks, their number, and the goals
* ``peers``      a function per peer that runs stages on tasks
* ``one``        one measurement, in a process of its own
* ``usage``      CPU time and memory of a measurement's processes
* ``__main__``   interleaved rounds of all, and their medians
* ``report``     ratios, the table and the plot
"""
