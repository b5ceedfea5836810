"""Which NeMo Curator is installed."""

from __future__ import annotations

import importlib.metadata

VERSION = importlib.metadata.version("nemo-curator")
