"""Seeds from task ids."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.stage.seeds import seed_for

TASK_IDS = st.lists(st.text(st.characters(exclude_characters="\n"), min_size=1), max_size=4)


def test_seeds_are_the_same_everywhere_and_for_ever():
    # A checkpoint or a capsule of an earlier version must not draw other numbers.
    assert seed_for(0, ["0_1"]) == 8929498992449621516
    assert seed_for(-3, ["0_1", "0_2"]) == 1831700488988757332


@given(st.tuples(st.integers(), TASK_IDS), st.tuples(st.integers(), TASK_IDS))
def test_other_tasks_and_other_numbers_have_other_seeds(one, other):
    assert (seed_for(*one) == seed_for(*other)) == (one == other)


@given(st.integers(), st.lists(st.text(), max_size=3))
def test_a_seed_is_one_that_every_library_takes(number, task_ids):
    assert 0 <= seed_for(number, task_ids) < 2**63


def test_numpy_is_not_imported_to_be_seeded():
    code = (
        "import sys; from gpuexec.stage.seeds import TaskSeeds; TaskSeeds(1).begin(['0']); "
        "assert not {'numpy', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
