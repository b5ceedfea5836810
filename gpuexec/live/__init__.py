"""Seeing a run from another terminal while it goes on.

The driver listens on a Unix socket in the run's folder. To whoever attaches it says what the run is, then how far it
is, again and again, and what is logged. It takes nothing from them, and waits for none.

* ``address``    the socket's file, also where its path is longer than a socket address may be
* ``protocol``   the messages, as lines of JSON
* ``log_lines``  what is logged, as messages
* ``snapshot``   how far the run is, as a message
* ``server``     the thread that listens and sends
* ``observer``   the observer that gives the thread what it sends
* ``client``     the other end
* ``text``       a snapshot as lines of text
* ``terminal``   the terminal that it is drawn on
* ``app``        ``gpuexec top``
"""
