"""`RayExecutor`: the same stages and tasks on a Ray cluster. Nothing outside this package imports Ray.

::

    executor ─► meanings   which options mean the same there, and which are refused
             ─► connection a cluster that is there, or one that is started
             ─► sizing     what each stage asks for ─► planning.cluster, the pure plan
             ─► run        the driver: a Ray Data pipeline, whose rows are pickled tasks (`rows`)
                  │ asks
                  ▼
                ledger     an actor beside the driver: attempts, figures, failures (`notes`)
                  ▲ tell
                  │
               workers     on the nodes: `stage_worker` runs the stage on a block of rows (`attempts`)
"""
