"""What a run did: the report, and what is made of it.

* ``verdict``  what limited the run, in sentences with the figures behind them
* ``page``     the report as one HTML file that needs no network
"""
