"""What is different about a stage of NeMo Curator, so that nothing above has to know which it has.

* ``registration``  makes our classes count as Curator's wherever Curator checks with ``isinstance``
* ``adapters``      the adapter of a stage: ours, or Curator's own with a recording timer
* ``origin``        whose a stage is
* ``stage_facts``   what a stage of either library asks for

Nothing here imports NeMo Curator unless a stage of it is there already.
"""
