"""Failure capsules: a failed batch in a folder, with everything needed to run it again.

* ``write``    writes a capsule and removes old ones; describes the format
* ``read``     loads a capsule without opening its pickles
* ``summary``  the text for people
* ``redact``   keeps secrets out of capsules
"""
