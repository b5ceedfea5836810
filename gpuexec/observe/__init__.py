"""What happens in a run, as one stream of events (``events``), and its readers.

* ``report``    totals per stage and worker, kept by the executor beside the figures on the tasks
* ``progress``  the display on stderr
* ``relay``     notices, workers' log records and prints, in the driver's log
"""
