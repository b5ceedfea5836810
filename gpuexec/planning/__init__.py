"""Which workers a run has: pure functions over frozen values, without a clock and without I/O.

The starting plan, made before the run:

    planner     checks the demands, makes the `Allocator` and the plan, cuts the pipeline into phases
    placement   chooses the devices of a worker, and how many workers each stage of a phase may have
    allocator   what the workers of a run share, and the grant each of them gets

Changes while the run goes on:

    workload    what is known of running stages: snapshots, forecasts of the work still to come
    balance     how many workers each stage should have
    packing     whether such counts fit the devices
    rebalance   which workers to start and stop now, and whether that is worth it
    moves       which workers to stop so that another one fits

Under both: ``model`` (inputs and outputs), ``request`` (a demand in exact numbers), ``ledger`` (free shares of the
devices), ``busy`` (GPUs that other processes use) and ``explain`` (messages about demands that cannot be met).
"""
