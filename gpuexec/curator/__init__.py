"""All that knows NeMo Curator, so that nothing above or below depends on which library a stage is from.

* ``registration``  makes our classes count as Curator's wherever Curator checks with ``isinstance``, and tells
  ``contract`` about Curator's markers and base classes
* ``adapters``      the adapter of a stage: ours, or Curator's own with a timer that keeps its stats
* ``origin``        which library a stage is from
* ``stage_facts``   what a stage of either library asks for
* ``id_generator``  Curator's generator of document ids, in the driver; ``id_service`` is how workers ask it
* ``ray_only``      refuses what exchanges data through actors of Ray, and names what to use instead

Nothing here imports NeMo Curator unless a stage of it exists already.
"""

from gpuexec.contract.base_classes import register_base_module
from gpuexec.curator.origin import STAGE_MODULE

register_base_module(STAGE_MODULE)
