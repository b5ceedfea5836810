"""What code and loggers become on the other side."""

from __future__ import annotations

import io
import logging

import pytest
from loguru import logger

from gpuexec.channel import codec


def sent(value, encode=codec.encode):
    return codec.decode(encode(value).join(), in_place=False)


@pytest.mark.parametrize("encode", [codec.encode, codec.encode_by_value])
def test_loggers_arrive_as_the_receivers_own(encode):
    handler = logger.add(io.StringIO())  # cannot be pickled
    try:
        bound = logger.bind(job=7)
        arrived = sent({"log": bound}, encode)["log"]
        assert type(arrived) is type(bound)
        assert (arrived._core, arrived._options) == (logger._core, bound._options)
    finally:
        logger.remove(handler)
    mine = logging.getLogger("mine.child")
    assert sent(mine, encode) is mine
    assert sent(logging.root, encode) is logging.root
    assert sent(logging.LoggerAdapter(mine, {"a": 1}), encode).logger is mine
    assert sent(logging.Logger("mine.child"), encode) is mine, "one that no name leads to, too"


def test_code_keeps_its_file_and_works():
    def outer(x):
        return [x + y for y in range(2)]

    copy = sent(outer, codec.encode_by_value)
    assert copy(1) == [1, 2]
    assert copy.__code__.co_filename == __file__
    assert copy.__code__.co_firstlineno == outer.__code__.co_firstlineno
