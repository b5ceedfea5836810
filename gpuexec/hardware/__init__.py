"""The machine, read and turned into frozen values (``model``).

nvml ──┐
host ──┼─► inventory ─► Node ─► visible_devices ─► Devices for the planner
topology ┘
"""
