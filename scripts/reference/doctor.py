"""docs/doctor.md: every check of ``gpuexec doctor``, from the catalogue."""

from gpuexec.doctor.as_dict import SCHEMA
from gpuexec.doctor.catalogue import CHECKS
from gpuexec.doctor.checks.each_gpu import ASK_DRIVER, ASK_GPU
from gpuexec.doctor.model import Check, Topic

HEAD = """# Is this machine fit for runs?

Made by `scripts/make-reference` from `gpuexec/doctor`.

<!-- runs: no, pipeline.py is one of yours; tests/process/test_doctor.py runs the command with each of these options -->
```sh
gpuexec doctor                                 # the machine
gpuexec doctor pipeline.py:pipeline --set n=3  # and what this pipeline needs; takes -o as `gpuexec run` does
gpuexec doctor --json                          # for programs
gpuexec doctor --check xids --check ecc        # only these checks
gpuexec doctor --skip swap                     # without this one
```

Every check passes, warns, fails or could not run. Problems come first, with what was found and a command that mends it
or shows more. Only you can tell whether to give it: some of them need root, end what others do, or restart the machine.

```text
FAIL  row-remap         GPU 1: a row of memory could not be remapped: have the
                        GPU serviced
                        $ nvidia-smi -q -d ROW_REMAPPER -i 1
WARN  persistence-mode  GPU 0, 2 to 7: off: the first process on it waits 1 to 3
                        s, and its error counters start anew
                        $ sudo nvidia-smi -i 0,2,3,4,5,6,7 -pm 1
?     xids              the kernel log cannot be read: /dev/kmsg: Operation not
                        permitted
                        $ sudo dmesg | grep -i xid
pass  ecc               GPU 0 to 7: no uncorrected errors

34 checks: 1 failed, 1 warned, 1 could not run, 31 passed
```

The exit status is that of the worst outcome, in this order; the numbers are those of Meta's GCM and of Nagios:

| status | meaning |
|---|---|
| 2 | a check failed: runs will not work, or their results are doubtful |
| 1 | none failed, one warned: runs may be slower, or fail later |
| 3 | none failed or warned, one could not run: what it looks at is not known |
| 0 | all passed; so do checks of what is not there, such as those of GPUs on a machine without |

A target that cannot be loaded is a failed check. A wrong option or the name of no check ends the command with status 1
or 2 and a message on stderr, and nothing is checked.

**Nothing is changed.** Doctor reads files of the kernel and asks the driver, with a limit on the time of each call. Two
things are asked in processes of their own: what PyTorch sees of CUDA (where there is a GPU and PyTorch is installed;
60 s at most), and, with a target, whether workers can be forked (its stages' modules are imported, 120 s at most). No
stage is run. Planning for GPUs makes the folder of [leases](gpu-shares.md#runs-beside-each-other), as `gpuexec plan`
does.

A reading that a GPU does not offer passes. One that is missing for another reason could not be checked, and
`nvidia-smi -q -i N` may say more; where no GPU can be read at all, the checks `driver` and `gpus` say why.

What a user may read differs. In containers and for users without rights, the kernel log is often closed, and other
users' processes have no names: such checks could not run, and say which command does.
"""

JSON = """
## As JSON

`gpuexec doctor --json` prints one object, in the schema `{schema}`. A reader should accept fields that it does not
know. A change that is not an addition gets a new number.

| field | what it is |
|---|---|
| `schema`, `gpuexec` | the schema, and the version that wrote it |
| `hostname`, `target` | the machine; the pipeline that was named, or `null` |
| `outcome`, `exit_status` | the worst outcome: `pass`, `warn`, `fail` or `could not run`; the status of the command |
| `counts` | how many checks have each outcome |
| `checks[]` | `name` and `topic` as above, `outcome`, `findings` |
| `checks[].findings[]` | `outcome`; `found`, in words; `gpus`, the indices of those it is about |
| `checks[].findings[].remedy`, `.advice` | a command, or `null`; what else to know or do, or `null` |
| `facts` | everything that was read, for people who look into a problem. Its fields are not part of the schema |

`facts` has names and pids of processes that hold GPU memory, and of environment variables only those that the checks
name.
"""


def doctor_page() -> str:
    parts = [HEAD]
    for topic in Topic:
        checks = [each for each in CHECKS if each.topic is topic]
        title = topic.value[0].upper() + topic.value[1:]
        only = "\nOnly with a target.\n" if all(each.needs_target for each in checks) else ""
        parts.append(f"## {title}\n{only}\n{_table(checks)}\n")
    return "\n".join(parts) + JSON.format(schema=SCHEMA)


def _table(checks: list[Check]) -> str:
    rows = ["| check | what it looks at | remedies | source |", "|---|---|---|---|"]
    return "\n".join([*rows, *map(_row, checks)])


def _row(each: Check) -> str:
    own = [remedy for remedy in dict.fromkeys(each.remedies) if remedy not in (ASK_DRIVER, ASK_GPU)]
    remedies = "<br>".join(f"`{_cell(remedy)}`" for remedy in own)
    return f"| `{each.name}` | {_cell(each.about)} | {remedies} | {_cell(each.source)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
