"""The driver: one thread that watches, decides and applies, and never runs a stage's code.

              seeds                                                             results
                │ encode                                                           ▲ decode
                ▼                                                                  │
    ┌─────► queue 0 ──► workers of stage 0 ──► queue 1 ──► workers of stage 1 ──► … ┘
    │           (payloads pass through unread; a full queue stops the stage before it)
    │
    │   watch    Watch.wait: messages, output, process ends      supervise/
    │   handle   update tables: StageState, Worker, Batch         run.py, flow.py, state.py
    └── decide   pure functions of those tables                  decide.py
        apply    send batches, start and stop workers             flow.py, crew.py

Who does what
* ``Run`` owns the loop and the workers' tables; one phase of the plan after the other.
* ``Flow`` owns the tasks: seeds, queues, batches in hand, results.
* ``Crew`` owns the processes: nothing else starts, signals or reaps one. ``Staff`` says which there are to be;
  ``Balancing`` asks the planner, now and then, whether it should be others.
* ``outcome`` turns what a worker reported, or its silence, into the exception the caller sees.

Invariants
1. A batch's outputs enter the next queue all at once, when the batch is complete.
2. Every task is in exactly one place: a queue, a batch in hand, a batch's outputs, or the results.
3. Nothing is sent to a stage whose next queue is full, so memory is bounded by the queues plus the
   batches in hand.
4. When ``Run.execute`` returns or raises, no process, descriptor or segment of the run is left.
"""
