"""Observers of the events that a run emits (``gpuexec.events``).

* ``progress``      the display on stderr
* ``relay``         notices, workers' log records and prints, in the driver's log
* ``sampler``       samples of GPUs and processes, taken in a thread of its own
* ``node_series``   the series that are made of the samples
* ``series``        time series of bounded size, for what a run measures
* ``energy``        joules of GPUs, and whose share they were
"""
