"""Observers of the events that a run emits (``gpuexec.events``).

* ``progress``      the display on stderr
* ``relay``         notices, workers' log records and prints, in the driver's log
* ``series``        time series of bounded size, for what a run measures
"""
