"""The machine, read and turned into frozen values (``model``).

nvml ──┐     (its calls have time limits: nvml_calls)
host ──┼─► inventory ─► Node ─► visible_devices ─► Devices for the planner
topology ┘

During a run: ``telemetry`` (GPUs) and ``process_readings`` are read again and again.
"""
