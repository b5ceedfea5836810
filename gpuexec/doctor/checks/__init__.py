"""Checks, by what they are about; `catalogue` lists all of them."""
