"""Curator's MinHashStage, whose hashes are computed on the CPU. To be imported with ``stand_ins`` in ``sys.path``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import nemo_curator
from datasketch import MinHash as Sketch
from nemo_curator.stages.resources import Resources

# Importing Curator's package for fuzzy deduplication imports all of its stages, and so all of RAPIDS.
_PACKAGE = "nemo_curator.stages.deduplication.fuzzy"
_is_ours = _PACKAGE not in sys.modules
if _is_ours:
    sys.modules[_PACKAGE] = ModuleType(_PACKAGE)
    sys.modules[_PACKAGE].__path__ = [str(Path(nemo_curator.__path__[0], "stages", "deduplication", "fuzzy"))]
try:
    from nemo_curator.stages.deduplication.fuzzy.minhash import MinHash, MinHashStage
finally:
    if _is_ours:
        del sys.modules[_PACKAGE]


class CpuMinHash(MinHash):
    def compute_minhashes(self, text_series):
        return text_series.map(self._sketch)

    def _sketch(self, text: str) -> list[int]:
        sketch = Sketch(num_perm=self.num_hashes)
        sketch.update(text.encode())
        return sketch.hashvalues.tolist()


class MinHashOnCpu(MinHashStage):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.resources = Resources(cpus=1)

    def setup(self, worker_metadata=None) -> None:
        super().setup(worker_metadata)
        self.minhash_processor = CpuMinHash(num_hashes=self.num_hashes)
