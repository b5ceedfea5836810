"""What outlives a run: its checkpoint, so that the next one need not begin again, and failed batches for replay.

    stages ──fingerprint──► same pipeline as last time? ──no──► CheckpointMismatch
                                     │ yes
    source stage's outputs ──► done in an earlier run? ──yes──► dropped
                                     │ no
                                  opened ──► moved / failed, batch by batch ──► settled
                                     │              (sources, in memory)           │
                                     └───────────────► journal (SQLite) ◄──────────┘

A *source* is a partition: one output of the source stage, or one initial task where no stage is marked as
source. Its key is the whole ``task_id`` path, so partitions of different parents never share one.

* ``checkpoint``   what the driver holds: the three below behind seven methods
* ``sources``      pure: how many descendants of each source are still on their way, and whether one failed
* ``journal``      the file: runs, and the state of every source
* ``history``      reads a journal that another process may be writing
* ``fingerprint``  what identifies a pipeline, and how two differ

* ``capsule``, ``capsule_summary``, ``redact``   a failed batch in a folder, without secrets; see there

Invariants of checkpoints
1. A source is *done* exactly when none of its descendants is in a queue, in a worker's hands or on its way
   to the caller, and none failed. A descendant that was filtered out is gone like one that reached the end.
2. Descendants that cannot be traced to one input of their batch belong to the sources of all of them: those
   sources are done together or not at all.
3. A source is in the journal as *done* only after the last stage has returned every one of its descendants
   and the driver has them. One step of the driver's loop is one transaction, whatever it completed.
4. One run at a time writes a journal. Its lock is the kernel's and ends with the process.

Promised, however a run ends (exception, Ctrl-C, SIGKILL, out of memory), given the same pipeline and keys
* *At least once* per source: a source not journalled as done is processed again from its beginning, all its
  descendants included. Whatever its interrupted attempt had written is written again.
* *Exactly once*, as counted in the journal: a source that is done is never processed again.
* So a last stage that overwrites by a name made from ``task_id`` (or other stable content) leaves the files
  that an undisturbed run would have left, each once. One that appends, or draws names, may write twice.

Not promised
* Tasks of sources that were done before are not returned: their outputs are what the last stage stored.
* A power cut (the node's, not the process's) may undo the last completions, which costs only work, since
  those sources are processed again. But files that a stage has not synced may be lost although their source
  is done: a stage that must survive power cuts calls ``os.fsync``.
* Keys are as stable as the ids of the source stage. Tasks without ``get_deterministic_id()`` are numbered
  by position: if their order changes between runs, the wrong ones are skipped. A warning says so.
* A change of a stage's code is not noticed: fixing a stage and going on is what checkpoints are for.
* The journal must lie on a local file system: SQLite's log is shared memory between processes of one node.
"""
