"""What the driver does with payloads that workers have sent: unpacks results, and puts away what waits."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import load
from gpuexec.channel.segments import Segment, SegmentPool, read_segment
from gpuexec.channel.spill import SpillFiles
from gpuexec.core.batch import Block, BlockSlice
from gpuexec.core.stage import StageState
from gpuexec.errors import ResultNotPicklable, SpillFailed
from gpuexec.naming import abbreviated


class StoredPayloads:
    """Implements ``core.ports.Payloads``. ``spill_folder``: for what waits between phases, if there are several.

    ``pool``: the segments that are free.
    """

    def __init__(self, spill_folder: str | None) -> None:
        self._files = SpillFiles(spill_folder) if spill_folder is not None else None
        self.pool = SegmentPool()

    def unpack(self, stage: StageState, block: Block) -> list[Any]:
        """Return the tasks of a block of the last stage. Raises ``ResultNotPicklable``."""
        try:
            tasks: list[Any] = load(block.payload)
        except Exception as error:
            raise ResultNotPicklable(
                f"task {abbreviated(block.task_ids)} returned by stage {stage.spec.name!r} was pickled but cannot be "
                f"unpickled here: {type(error).__name__}: {error}"
            ) from error
        return tasks

    def copy_out(self, payload: Payload) -> Payload:
        """Return the payload in memory of this process."""
        return read_segment(payload) if isinstance(payload, SegmentRef) else payload

    def trim(self, payload: Payload) -> None:
        """Give back the memory that a segment has beyond its payload: it may have carried a larger one before."""
        if isinstance(payload, SegmentRef) and payload.exclusive:
            payload.segment.trim(payload.length)

    def spill(self, payload: Payload) -> SegmentRef:
        """Return the payload in a file. Raises ``SpillFailed``."""
        assert self._files is not None, "nothing waits for a later phase where there is only one"
        return self._files.store(payload)

    def recycle(self, payload: SegmentRef) -> None:
        """Keep the segment of a payload that nobody needs any more."""
        self.pool.keep(payload.segment)

    def spare(self, size: int) -> Payload | None:
        """Return a free segment with room for ``size`` bytes, if there is one."""
        segment = self.pool.take_free(size)
        return SegmentRef(segment, 0, segment.capacity, exclusive=True) if segment is not None else None

    def put_away(self, parts: Sequence[BlockSlice]) -> BlocksOnDisk:
        """Write slices of blocks to a file, their small payloads included. Raises ``SpillFailed``."""
        files: list[Segment] = []  # of the payloads that have been spilled
        rows = []
        for block, start, stop in parts:
            payload: Any = block.payload
            if isinstance(payload, SegmentRef):
                if not files or files[-1] is not payload.segment:
                    files.append(payload.segment)
                payload = (len(files) - 1, payload.offset, payload.length)
            else:
                payload = bytes(payload)
            rows.append((payload, block.task_ids, block.paths, block.queued_at, block.sources, start, stop))
        return BlocksOnDisk(self.spill(pickle.dumps(rows, 5)), files)

    def finish_phase(self) -> None:
        """Note that no more will be added to what has been spilled. Raises ``SpillFailed`` if the disk failed to."""
        if self._files is not None:
            self._files.finish_file()

    def close(self) -> None:
        """Let go of the files that are being written, and of free segments."""
        self.pool.close()
        if self._files is not None:
            self._files.close()


class BlocksOnDisk:
    """Implements ``core.queue.PutAway``. ``files``: those that hold the blocks' own payloads."""

    __slots__ = ("_files", "_rows")

    def __init__(self, rows: SegmentRef, files: Sequence[Segment]) -> None:
        self._rows = rows
        self._files = files

    def load(self) -> list[BlockSlice]:
        """Read the slices. Raises ``SpillFailed``."""
        try:
            rows = pickle.loads(read_segment(self._rows))
        except OSError as error:
            raise SpillFailed(
                f"what waits for this phase cannot be read back from the disk: {error.strerror or error}"
            ) from error
        parts: list[BlockSlice] = []
        for payload, task_ids, paths, queued_at, sources, start, stop in rows:
            if isinstance(payload, bytes):
                block = Block(payload, task_ids, paths, queued_at, sources)
            else:
                file, offset, length = payload
                ref = SegmentRef(self._files[file], offset, length, exclusive=False)
                block = Block(ref, task_ids, paths, queued_at, sources)
                block.move(ref, on_disk=True)
            parts.append((block, start, stop))
        return parts
