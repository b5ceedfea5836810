"""From demands and devices to workers: pure functions over frozen values."""
