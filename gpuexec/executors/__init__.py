"""The executors, and what they share.

=================  ======================================================================================
``local``          `LocalExecutor`: every stage in worker processes of its own
``local_run``      one call of it: from stages and tasks to a run of the driver
``inline``         `InlineExecutor`: everything in the calling process, for debuggers
``replay``         runs the batch of a failure capsule again, in the calling process
``prepare``        checks a pipeline and plans it on this node, waiting for busy GPUs if asked to
``checks``         what no executor can run
``initial_tasks``  the tasks that a run begins with
``progress``       the progress display that the options ask for
``target``         loads the pipeline that ``MODULE_OR_FILE:OBJECT`` names
``values``         values as people write them: ``100MB``, ``10s``, ``a,b``
``option_repr``    the options that differ from the defaults
``stage_options``  the options that a stage has of its own
=================  ======================================================================================
"""
