"""The core of a run: tasks, batches, stages and workers as state machines. Pure: no clock, no process, no pickle.

The driver (``gpuexec.driver``) is the shell around it. It waits, reads messages, and calls the core with what
happened and the time; the core changes its tables and asks the shell, through the ports of ``ports.py``, to send,
start, stop or kill. Everybody else reads these tables, and changes them only through methods of the core.

=================  ==================================================================================================
``machine``        a transition table with its state and its story; an illegal step raises
``worker``         `Worker`: states, the reason of its end, and what its exit means
``batch``          `Block`, `Batch`, and the order of results
``attempts``       `BatchLifecycle`: the state machine of a batch that has failed
``queue``          `TaskQueue`: the tasks that wait before a stage
``stage``          `StageState`: a stage's queue and workers; ``service_times`` measures it
``decide``         decisions about batches and workers that need only a `StageView`
``dispatch``       `Dispatcher`: every task of the run, and which worker gets which batch
``retries``        `judge`: what becomes of a failed batch; ``breaker`` ends a run whose workers keep failing
``recovery``       `Recovery`: applies these judgements
``pool``           `WorkerPool`: which workers there are, when they set up, drain, and are replaced
``termination``    `Terminator`: ends one worker (stacks, stop, kill), on request or after a timeout
``lineage``        `Lineage`: which source each task descends from; ``sources`` counts what is left of each
``ports``          what the core asks of the shell
``run_state``      `RunState`: all of the above for one run, and the calls the shell makes
=================  ==================================================================================================
"""
