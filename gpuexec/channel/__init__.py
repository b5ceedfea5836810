"""What travels between driver and workers.

    objects ──codec──► payload (bytes, inline or in a segment) ──messages/wire──► socket pair

* ``messages``  every parent↔child message, frozen. Headers are JSON: control needs no unpickling.
* ``wire``      frames on a stream socket; descriptors of segments ride along (SCM_RIGHTS).
* ``codec``     tasks ↔ payloads: pickle protocol 5 with out-of-band buffers.
* ``segments``  anonymous shared memory (memfd) and its reuse.

Invariants
1. A payload is opaque to the driver: it forwards payloads and never unpickles one, except the last
   stage's tasks and a stage's own exception.
2. A byte range of a segment has exactly one owner at any time: producer, then driver, then consumer.
   So what a consumer receives is writable and nobody else sees its writes.
3. A segment has no name. When the last descriptor and mapping are gone its memory is gone, however the
   processes that held them ended.
4. Within one connection messages arrive in the order they were sent.
"""
