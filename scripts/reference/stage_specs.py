"""docs/stage-specs.md: what the keys of a stage's specs mean, from the table of ``gpuexec/curator/spec_keys.py``."""

from collections.abc import Mapping

from gpuexec.curator.spec_keys import RAY, REMOTE_ARGS, XENNA, Key

HEAD = """# What stages ask for: specs and environments

Made by `scripts/make-reference` from `gpuexec/curator/spec_keys.py`.

A stage says in its own methods what it asks of the thing that runs it: `num_workers()`, `num_workers_per_node()`, and
the options for Ray and Xenna in `ray_stage_spec()` and `xenna_stage_spec()`. gpuexec reads them all, for stages of
NeMo Curator and for its own:

```python
from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Task, plan


class Text(Task):
    num_items = 1

    def validate(self):
        return True


class Extract(ProcessingStage):
    name = "extract"

    def ray_stage_spec(self):
        return {"max_calls_per_worker": 100, "min_workers": 1, "max_workers": 4}

    def process(self, task):
        return Text(task.dataset_name, task.data.upper())


print(plan(Pipeline("p", stages=[Extract()])))  # says what the stage asked for, and what it became
results = Pipeline("p", stages=[Extract()]).run(LocalExecutor(), initial_tasks=[Text("d", "one"), Text("d", "two")])
assert [task.data for task in results] == ["ONE", "TWO"]
```

* What has an equal here is **honoured**: it becomes an [option](options.md) of the stage, or a bound of its number of
  workers. `gpuexec plan` shows each.
* What has none is **told**: one warning at the start of a run, and a note of `gpuexec plan`, names the stage, the key
  and the reason. So does a key that nobody knows, with the nearest one.
* A value that cannot be is **refused** before anything starts: a number that is none, `min_workers` above
  `max_workers`, a number of workers asked for in two ways, a method that raises.

The options that you set yourself, with `with_()` or `stage_options`, win over what a spec asks for, and that wins over
the executor's own options. Where both specs ask for the same option, Ray's wins. `None` as a value means not set.

`min_workers` and `max_workers` bound what the planner may choose: a stage starts with `initial_workers`, or else with
`min_workers`, and then has as many as pay, within these bounds. A stage that cannot have `min_workers` on the GPUs of
the machine is refused. `num_workers_per_node()` is a number of workers, since there is one node; fractions are rounded
up.
"""

ENVIRONMENTS = """## The environment of a stage

`runtime_env` is Ray's way to say what a stage needs. Its `env_vars` are set in the stage's workers. Everything else
must be there already: gpuexec installs nothing, so a stage that asks for what is not there is refused before anything
starts, with the command that brings it about. It never runs with other versions.

```python
from gpuexec import ConfigurationError

met, unmet = (Extract().with_(runtime_env={"uv": [asked]}) for asked in ("loguru>=0.5", "loguru==0.0.1"))
Pipeline("p", stages=[met]).run(LocalExecutor(), [Text("d", "one")])
try:
    Pipeline("p", stages=[unmet]).run(LocalExecutor(), [Text("d", "one")])
except ConfigurationError as refused:
    assert "run `uv pip install --python" in str(refused)
```

* **`pip`, `uv`**: every requirement is installed, in that version. A list, the name of a file, or a mapping
  with `packages`. Markers, extras with what they ask for, files within files (`-r`) and constraints (`-c`) count. A
  package by address, or an editable one, must have been installed from there; a wheel's name tells its version.
* **`conda`**: each of `dependencies` is installed under that name in Python, in that version, builds aside; or it names
  the environment that the program runs in.
* **`working_dir`** is the folder that the program runs in, **`py_executable`** its interpreter, and **`py_modules`**
  (modules, paths, wheels) are imported from there.
* **`container`, `image_uri`, `java_jars`, `mpi`, `worker_process_setup_hook`** are never met: the message says what to
  do instead.

A requirement that cannot be checked, such as a text that is none, is not met. Parts that have no meaning here
(`nsight`) are named in a warning. `accept_unmet_requirements=True` turns the refusal into a warning. Stages that need
different versions of one package need programs of their own: write what passes between them to files.
"""


def stage_specs_page() -> str:
    tables = [
        ("ray_stage_spec()", RAY),
        ('ray_stage_spec()["ray_remote_args"]', REMOTE_ARGS),
        ("xenna_stage_spec()", XENNA),
    ]
    parts = [HEAD, *(f"## `{title}`\n\n{_table(keys)}\n" for title, keys in tables), ENVIRONMENTS]
    return "\n".join(parts)


def _table(keys: Mapping[str, Key]) -> str:
    rows = ["| key | here |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {key.about.replace('|', '/')} |" for name, key in keys.items())])
