"""Runs the fenced blocks of README.md and docs/, so that no page shows a command or a program that does not work."""
