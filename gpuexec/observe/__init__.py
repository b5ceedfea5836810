"""Observers of the events that a run emits (``gpuexec.events``).

* ``report``        totals per stage and worker, kept beside the stats on the tasks
* ``report_table``  the closing table made of a report
* ``progress``      the display on stderr
* ``relay``         notices, workers' log records and prints, in the driver's log
"""
