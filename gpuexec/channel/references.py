"""Whether memory may be used again: nothing but its keeper refers to it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_FROM_ITS_LIST = 2  # the list's reference, and that of getrefcount's argument


def only_its_list_has(objects: Sequence[object]) -> bool:
    """Return whether nothing but the list ``objects`` refers to its last element.

    A local variable would not do instead of a list: since Python 3.14 a call may borrow the variable's reference, and
    whether it does is the compiler's choice.
    """
    return sys.getrefcount(objects[-1]) == _FROM_ITS_LIST
