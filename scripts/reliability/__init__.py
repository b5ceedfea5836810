"""Runs that are ill-treated on purpose: killed at random (chaos), or for long (soak)."""
