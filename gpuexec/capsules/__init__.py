"""Capsules: one failed batch with everything needed to run it again."""
