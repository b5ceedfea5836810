"""What travels between driver and workers.

    objects ──codec──► payload (bytes, inline or in a segment) ──messages/wire──► socket pair

* ``messages``  every parent↔child message, frozen. Headers are JSON: control needs no unpickling.
* ``wire``      frames on a stream socket; descriptors of segments ride along (SCM_RIGHTS).
* ``codec``     tasks ↔ payloads: pickle protocol 5 with out-of-band buffers.
* ``payloads``  where a payload goes, inside the message or into a segment, and back.
* ``segments``  anonymous shared memory (memfd) and its reuse.
* ``recorder``  a page that tells the driver what the worker is doing, also when the worker cannot.

A *parcel* is a payload of several tasks that were pickled together.

Invariants
1. A payload is opaque to the driver: it forwards payloads and never unpickles one, except the last
   stage's tasks and a stage's own exception.
2. A payload in a segment does not change until its batch is complete; whoever takes it up reads it into memory of its
   own. So what a consumer has is writable, nobody else sees its writes, and a second attempt gets what the first got.
3. A segment has no name. When the last descriptor and mapping are gone its memory is gone, however the
   processes that held them ended.
4. Within one connection messages arrive in the order they were sent.
"""
