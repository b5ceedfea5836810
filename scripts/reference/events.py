"""docs/events.md: every event of a run, from the docstrings and fields of ``gpuexec.events``."""

import dataclasses
import inspect
import typing

from gpuexec import events
from gpuexec.records import Record

HEAD = """# Events

Made by `scripts/make-reference` from `gpuexec/events.py`.

An observer gets every event of a run, in order: `LocalExecutor(observers=[observer])`, `InlineExecutor` likewise. The
progress table, the report and the metrics for Prometheus are observers themselves.

```python
from gpuexec import LocalExecutor, events


class Failures:
    def on_event(self, event: events.RunEvent) -> None:
        if isinstance(event, events.BatchFailed):
            print(event.task_ids, event.error, event.action)


executor = LocalExecutor(observers=[Failures()])
```

* `on_event` is called in the driver's loop: while it runs, no batch is sent. What takes long belongs into a thread.
* An observer that raises is named in a warning, once; it goes on getting events, and the run is not affected.
* Events are values: they are frozen, and comparable. New kinds may be added, so a `match` needs a default.
* `at`, `began` and `ended` are seconds of the monotonic clock, the same in all processes of the machine. `RunStarted`
  has the POSIX time as well. Fields ending in `_s` are durations in seconds.
* `stage_index` is the stage's position in the pipeline.
"""


def events_page() -> str:
    kinds = typing.get_args(events.RunEvent)
    parts = [HEAD, "## Kinds\n", *map(_section, kinds), "## What they are made of\n", *map(_section, _parts(kinds))]
    return "\n".join(parts)


def _parts(kinds: tuple[type, ...]) -> list[type]:
    """Return the records that events are made of, as far as this module defines them."""
    defined = [value for value in vars(events).values() if isinstance(value, type) and issubclass(value, Record)]
    own = [value for value in defined if value.__module__ == events.__name__ and value not in kinds]
    return [*own, events.BatchStats]


def _section(kind: type) -> str:
    rows = "\n".join(f"| `{field.name}` | `{_cell(field.type)}` |" for field in dataclasses.fields(kind))
    return f"### {kind.__name__}\n\n{_text(kind)}\n\n| field | type |\n|---|---|\n{rows}\n"


def _text(kind: type) -> str:
    return (inspect.getdoc(kind) or "").replace("``", "`").replace("<", "\\<")


def _cell(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("|", "\\|")
