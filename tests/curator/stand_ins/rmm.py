"""Imported by Curator's MinHash, and not asked for anything when ``pool=False``."""
