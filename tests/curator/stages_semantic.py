"""Curator's stages around K-means and LSH that use no GPU themselves, while their packages import all of RAPIDS.

The packages are replaced while the modules are imported. The classes here are Curator's with nothing changed: they
let workers find the classes by importing this module.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import nemo_curator

_PACKAGES = [f"nemo_curator.stages.deduplication.{name}" for name in ("semantic", "fuzzy")]
_ours = [name for name in _PACKAGES if name not in sys.modules]
for _name in _ours:
    sys.modules[_name] = ModuleType(_name)
    sys.modules[_name].__path__ = [str(Path(nemo_curator.__path__[0], *_name.split(".")[1:]))]
try:
    from nemo_curator.stages.deduplication.semantic import identify_duplicates, pairwise_io
finally:
    for _name in _ours:
        del sys.modules[_name]


class Clusters(pairwise_io.ClusterWiseFilePartitioningStage):
    pass


class Duplicates(identify_duplicates.IdentifyDuplicatesStage):
    pass
