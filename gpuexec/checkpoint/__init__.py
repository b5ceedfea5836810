"""Checkpoints: what a run has completed, on disk, so that the next run does not repeat it.

    stages ──fingerprint──► same pipeline as last time? ──no──► CheckpointMismatch
                                     │ yes
    source stage's outputs ──► done in an earlier run? ──yes──► dropped
                                     │ no
                                  opened ──► moved / failed, batch by batch ──► settled
                                     │              (sources, in memory)           │
                                     └───────────────► journal (SQLite) ◄──────────┘

A *source* is a partition of the input: one output of the source stage, or one initial task if no stage is marked as
source. Its key is the whole ``task_id`` path, so partitions with different parents never share a key.

* ``checkpoint``    what a run uses; the modules below are its parts
* ``core.sources``  pure: how many descendants of each source are unfinished, and whether one failed
* ``journal``       the file: runs, and the state of every source
* ``history``       reads a journal, even while another process writes it
* ``fingerprint``   what identifies a pipeline, and how two pipelines differ

Invariants
1. A source is *done* exactly when none of its descendants is in a queue, in flight at a worker, or finished and not yet
   given to the caller, and none has failed. A descendant that was filtered out counts like one that reached the end.
   Who gives tasks to the caller only when the run has succeeded, as ``execute`` does, has all of them "not yet given"
   until then, unless the last stage stores them (``Delivery``). Who takes tasks as they come has a task when asking for
   the next one.
2. A descendant that cannot be traced to one input of its batch belongs to the sources of all of them. These sources are
   done together or not at all.
3. The journal has a source as *done* only after the last stage has returned every descendant of it and the driver has
   received them. Each turn of the driver's loop is one transaction, whatever it completed.
4. Only one run at a time writes a journal. Its lock belongs to the kernel and ends with the process.

Promised, however a run ends (exception, Ctrl-C, SIGKILL, out of memory), given the same pipeline and keys
* *At least once* per source: a source that is not done in the journal is processed again from its beginning, with all
  its descendants. Whatever the interrupted attempt had written is written again.
* *Exactly once*, as counted in the journal: a source that is done is never processed again.
* Therefore a last stage that overwrites files named by ``task_id`` (or by other stable content) leaves the files that
  an undisturbed run would have left, each once. A stage that appends, or that makes up names, may write twice.

Not promised
* Tasks of sources that were done before are not returned: the caller had them from the run that did them, or the last
  stage, a declared sink, has stored them. A run with such a sink that fails says which tasks were not returned.
* A power cut of the node may undo the last completions. That costs only work, since those sources are processed again.
  But files that a stage has not synced may be lost although their source is done: a stage that must survive power cuts
  calls ``os.fsync``.
* Keys are as stable as the ids of the source stage. Tasks without ``get_deterministic_id()`` are numbered by position:
  if their order changes between runs, the wrong ones are skipped. A warning says so.
* Changes to a stage's code are not noticed: the purpose of checkpoints is to fix a stage and continue.
* The journal must be on a local file system: SQLite's log is memory shared by processes of one node.
"""
