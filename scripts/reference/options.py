"""docs/options.md: every option of the executors, from the fields of ``ExecutorConfig``."""

from collections.abc import Iterable

from gpuexec.cli.options import OptionFacts, default_in_words, option_facts

HEAD = """# Options

Made by `scripts/make-reference` from `gpuexec/config.py`. `gpuexec options` shows the same in a terminal, and
`gpuexec options --json` prints it for programs.

Options are keywords, a mapping, or both: `LocalExecutor(queue_tasks=100)`, `LocalExecutor({"queue_tasks": 100})`. On
the command line they are `-o queue_tasks=100`, with units where that helps: `-o queue_bytes=100MB`,
`-o retry_delay_s=10s`. An unknown name, a value of the wrong type or out of range is refused when the executor is made.

Editors and type checkers know them as `gpuexec.options.LocalOptions`, `InlineOptions` and `StageOptions`:

```python
from gpuexec import LocalExecutor
from gpuexec.options import LocalOptions

options: LocalOptions = {"max_attempts": 5, "retry_on": ConnectionError}
executor = LocalExecutor(**options)
```
"""

OF_ONE_STAGE = """A stage may have a value of its own: `stage.with_(max_attempts=5)`, or
`LocalExecutor(stage_options={"embed": {"max_attempts": 5}})`, which wins; on the command line
`-o embed.max_attempts=5`.
"""

SECTIONS = {
    "Of both executors": (
        "They have an effect in `LocalExecutor` and in `InlineExecutor`.",
        lambda option: option["inline"],
    ),
    "Of LocalExecutor": (
        "`InlineExecutor` takes them too, so that one can be swapped for the other, and warns that it ignores them.",
        lambda option: not option["inline"] and not option["per_stage"],
    ),
    "Of LocalExecutor, and of single stages": (
        OF_ONE_STAGE.strip(),
        lambda option: option["per_stage"],
    ),
}


def options_page() -> str:
    facts = option_facts()
    parts = [HEAD]
    for title, (about, belongs) in SECTIONS.items():
        parts.append(f"## {title}\n\n{about}\n\n{_table(option for option in facts if belongs(option))}\n")
    return "\n".join(parts)


def _table(options: Iterable[OptionFacts]) -> str:
    rows = ["| option | value | default | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{option['name']}` | {_cell(option['type'])} | {_cell(default_in_words(option))} | "
        f"{_cell(option['meaning'])} |"
        for option in options
    ]
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")
