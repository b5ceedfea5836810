"""The executors: ``local`` (worker processes) and ``inline`` (this process, for debuggers)."""
