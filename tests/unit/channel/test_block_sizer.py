"""Block sizes follow the sizes of tasks."""

from __future__ import annotations

import pytest

from gpuexec.channel.block_sizer import BlockSizer


def test_the_first_block_has_one_task_since_no_size_is_known():
    assert BlockSizer().next() == 1


@pytest.mark.parametrize(("task_bytes", "expected"), [(1, 256), (1000, 32), (10_000, 3), (1_000_000, 1)])
def test_blocks_come_near_the_aimed_size(task_bytes: int, expected: int):
    sizer = BlockSizer()
    for _ in range(30):
        tasks = sizer.next()
        sizer.learn(tasks, tasks * task_bytes)
    assert sizer.next() == expected
