"""The machine as frozen values: `inventory.read_node()` asks NVML and the host, everything else is pure."""
