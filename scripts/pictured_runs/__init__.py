"""The runs whose reports are shown in docs/reading-a-report.md: real worker processes, each with a planted weakness.

The stages do real work on data that this package makes; only GPUs, and the work on them, are simulated
(``tests/nvml_sim``). Each module has a pipeline, its initial tasks, the executor's options, and a node if it is
simulated.
"""
