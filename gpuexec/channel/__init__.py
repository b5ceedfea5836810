"""The transport between driver and workers.

    objects ──codec──► payload (bytes, inline or in a segment) ──messages/wire──► socket pair

* ``messages``       every message between driver and worker, frozen. Headers are JSON, so control needs no unpickling.
* ``wire``           frames on a stream socket; descriptors of segments are sent along (SCM_RIGHTS).
* ``codec``          objects ↔ payloads: pickle protocol 5 with out-of-band buffers.
* ``definitions``    classes that the receiver cannot import.
* ``tensors``        how arrays, tensors and slices are pickled; ``gpu_fields`` names fields that had to leave a GPU.
* ``perf_identity``  keeps a batch's perf stats one object, though its tasks are in several payloads.
* ``block_sizer``    how many tasks to pickle into one block.
* ``payload_store``  store a payload, in the message or in a segment, and load it.
* ``anonymous``      files without a name, in memory where possible.
* ``segments``       anonymous shared memory (memfd), its reuse, and views of it.
* ``receive_buffers`` memory that large buffers are read into.
* ``spill``          files for what waits for a later phase.
* ``recorder``       a page that tells the driver what a worker is doing, even if the worker no longer can.

A *block* is a payload of several tasks that were pickled together.

Invariants
1. A payload is opaque to the driver: it forwards payloads and does not unpickle them, except the last stage's tasks
   and an exception of a stage.
2. A payload in a segment does not change until its batch is complete, and its consumer copies it into memory of its
   own. So what a consumer receives is writable, nobody else sees its writes, and a second attempt gets what the first
   one got. A consumer that only reads may get a view; then the segment does not change as long as the view exists.
3. Neither a segment nor a file for what waits has a name. When its last descriptor and mapping are gone its memory or
   disk space is freed, however the processes that held them ended.
4. Within one connection messages arrive in the order in which they were sent.
"""
