"""Lifecycles as tables: what may follow what. Pure; an illegal step raises and tells the story so far."""
