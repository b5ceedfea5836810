"""What runs a stage in a process: shared by workers, `InlineExecutor` and replay.

===============  ====================================================================================
``session``      the order of a stage's methods, from ``setup_on_node`` to ``teardown``
``node_lock``    one ``setup_on_node`` of a stage class at a time on this node
``pinning``      whether CUDA shows a worker the GPUs it was given
``environment``  the environment variables of a stage
``loading``      whether this process is importing a stage
``pools``        pools of processes inside a stage of a script or notebook
``stacks``       the stacks of all threads, written on a signal
===============  ====================================================================================
"""
