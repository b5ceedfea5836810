"""Observers of the events that a run emits (``gpuexec.events``).

* ``progress``      the display on stderr
* ``relay``         notices, workers' log records and prints, in the driver's log
* ``sampler``       samples of GPUs and processes, taken in a thread of its own
"""
