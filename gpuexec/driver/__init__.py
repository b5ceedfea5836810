"""The driver: the shell around ``gpuexec.core``. One thread waits, reads and carries out; no stage runs in it.

::

        initial tasks                                                              results
              │ blocks.py packs                                                       ▲ blocks.py unpacks
              ▼                                                                       │
    ┌───► the core: queue 0 ──► workers of stage 0 ──► queue 1 ──► workers of stage 1 ──► …
    │                    (payloads pass through unread)
    │
    │   run.py               waits for what becomes ready, and reports to the core what happened and when
    └── worker_processes.py  starts, sends, signals, reads and reaps, as the core asks

====================  =================================================================================================
``run``               `Run`: the loop, one phase of the plan after the other
``worker_processes``  `WorkerProcesses`: nothing else starts, signals or reaps a process
``blocks``            `InitialBlocks` packs the caller's tasks, `ResultPayloads` unpacks results
``initial_tasks``     `ListedTasks`, `StreamedTasks`: where the caller's tasks come from
``autoscaler``        `Autoscaler`: asks the planner, now and then, whether other worker counts would be better
``evaluation``        one evaluation of the stages by the planner, for the autoscaler
``limits``            `MemoryLimits`: the host's and the workers' memory
``gpus``              `RunGpus`: faults of the run's GPUs, and what they were like before and after
``telemetry``         `Telemetry`: begins to sample GPUs and processes, and passes on what was read
``capsules``          `CapsuleKeeper`: stores failed batches for ``gpuexec replay``
``exceptions``        makes the exception that the caller sees from what a worker reported
``shutdown``          `Shutdown`: ends a run that does not finish
====================  =================================================================================================

The invariants of a run stand in ``core/run_state.py``. The driver adds one: when ``Run.execute`` returns or raises, no
process, descriptor or segment of the run is left.
"""
