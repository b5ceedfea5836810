"""The driver: one thread that watches, decides and applies, and never runs a stage's code.

              seeds                                                             results
                │ encode                                                           ▲ decode
                ▼                                                                  │
    ┌─────► queue 0 ──► workers of stage 0 ──► queue 1 ──► workers of stage 1 ──► … ┘
    │           (payloads pass through unread; a full queue stops the stage before it)
    │
    │   watch    Watch.wait: messages, output, process ends      supervise/
    │   handle   update tables: StageState, Worker, Batch         run.py, flow.py, recovery.py
    └── decide   pure functions of those tables                  decide.py, lifecycle/, plan/
        apply    send batches, start and stop workers             flow.py, staff.py, crew.py

Who does what
* ``Run`` owns the loop; one phase of the plan after the other.
* ``Flow`` owns the tasks: ``InitialTasks`` (the caller's), queues of blocks, batches in flight, results. ``Lineage``
  follows sources for a checkpoint.
* ``WorkerProcesses`` owns the processes: nothing else starts, signals or reaps one. ``WorkerPool`` says which there
  are to be; ``Autoscaler`` asks the planner, now and then, whether it should be others.
* ``Recovery`` decides about batches that fail and workers that are gone, by the tables of ``lifecycle``;
  ``CapsuleKeeper`` keeps them for replay. ``Limits`` and ``RunGpus`` notice what goes wrong around them.
* ``outcome`` turns what a worker reported, or its silence, into the exception the caller sees; ``Shutdown`` winds up a
  run that does not finish.

Invariants
1. A batch's outputs enter the next queue all at once, when the batch is complete.
2. Every task is in exactly one place: a queue, a batch in hand, a batch's outputs, or the results.
3. Nothing is sent to a stage whose next queue is full, so memory is bounded by the queues plus the
   batches in hand.
4. Of the batches in a dead worker's hands only the one it was at is blamed (its flight recorder tells which); the
   others go back before everything that waits, as they were.
5. What a batch was sent with is kept until it is complete, and no worker changes it: a second attempt sees the same.
6. When ``Run.execute`` returns or raises, no process, descriptor or segment of the run is left.
"""
