"""Whether this process is a worker that is still importing its stage: executors refuse to start a run then."""

in_progress = False
