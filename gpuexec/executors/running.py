"""The runs of one executor that are going on, so that another thread can end them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from gpuexec.driver.cancellation import Cancellation
from gpuexec.errors import RunCancelled


class RunsGoingOn:
    """Pickled, it is empty: the runs belong to this process."""

    def __init__(self) -> None:
        self._cancellations: set[Cancellation] = set()

    def __reduce__(self) -> tuple[type[RunsGoingOn], tuple[()]]:
        return RunsGoingOn, ()

    def cancel(self) -> None:
        """End all of them, from any thread. Later runs are not affected."""
        for cancellation in tuple(self._cancellations):
            cancellation.request()

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[Cancellation]:
        """Count a run among them for as long as the block takes.

        Raises ``CancelledError`` in place of ``RunCancelled`` if it is the asyncio task around the run that was
        cancelled.
        """
        cancellation = Cancellation()
        self._cancellations.add(cancellation)
        try:
            yield cancellation
        except RunCancelled as error:
            if cancellation.by_own_task:  # which expects this, and is not cancelled otherwise
                raise sys.modules["asyncio"].CancelledError(str(error)) from error
            raise
        finally:
            self._cancellations.discard(cancellation)
            cancellation.close()
