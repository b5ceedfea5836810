"""Two proofs with real runs: that a sweep finds the best, and that it accounts for every point, whatever happens."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import gpuexec
from gpuexec.bench.journal import NAME, read_journal
from sweeps import known

ROOT = Path(__file__).parents[2]
SIZES = [1, 2, 4, 8, 16]
KILL_AFTER = (6, 14)  # lines of the journal
PLANTED = "tests.process.stages.swept:make"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove-bench")
    kinds = parser.add_subparsers(dest="kind", required=True)
    optimum = kinds.add_parser("optimum", help="how often a sweep finds the best of known service times")
    optimum.add_argument("--sweeps", type=int, default=20)
    optimum.add_argument("--first", type=int, default=0, help="seed of the first sweep")
    kinds.add_parser("planted", help="24 points, of which many go wrong; killed twice, and resumed")
    given = parser.parse_args()
    return find_optimum(given.first, given.sweeps) if given.kind == "optimum" else account_for_all()


def find_optimum(first: int, sweeps: int) -> int:
    """Sweep again and again; return 0 if at least 19 of 20 sweeps name the best batch size."""
    best = known.best_size(SIZES)
    found = []
    for seed in range(first, first + sweeps):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            result = gpuexec.bench(
                "sweeps.known:make",
                {"known.batch_size": SIZES},
                repeat=2,
                warmup=0,
                seed=seed,
                out=Path(folder, "sweep"),
                show_progress=False,
            )
        top = result.analysis.best
        size = None if top is None else top.point.settings.get("known.batch_size", known.Known.batch_size)
        found.append(size == best)
        print(f"seed {seed}: best {size}, planted {best}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{sum(found)} of {len(found)} sweeps found the planted optimum")
    return 0 if sum(found) >= 0.95 * len(found) else 1


def account_for_all() -> int:
    """Sweep 24 points on a simulated node, kill the sweep twice, resume it; return 0 if every point has a result."""
    from tests.nvml_sim import nodes, simulator

    with tempfile.TemporaryDirectory() as folder:
        library = simulator.build(Path(folder))
        node, out = Path(folder, "node.json"), Path(folder, "sweep")
        simulator.SimulatedNode(node, nodes.node(nodes.metered(0), nodes.metered(1)))
        paths = f"{library.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        env = {**os.environ, simulator.VARIABLE: str(node), "LD_LIBRARY_PATH": paths, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        env.pop("CUDA_VISIBLE_DEVICES", None)
        command = [sys.executable, "-m", "gpuexec", "bench", PLANTED, "--out", str(out), "--seed", "1"]
        command += ["--vary", "set.plant=fine,big,deadly,wrong,stuck,visited", "--vary", "work.gpus=0,0.5,1,9"]
        command += ["--repeat", "1", "--warmup", "0", "-o", "start_method=spawn", "-o", "max_attempts=1"]
        command += ["-o", "work.batch_timeout_s=3"]
        for number, lines in enumerate(KILL_AFTER):
            with subprocess.Popen(
                [*command, *(["--resume"] * bool(number))], env=env, cwd=Path(__file__).parents[2]
            ) as run:
                while run.poll() is None and _lines(out) < lines:
                    time.sleep(0.01)
                run.send_signal(signal.SIGKILL)
        done = subprocess.run([*command, "--resume"], env=env, cwd=ROOT, check=False)
        return _told(out, done.returncode)


def _told(out: Path, code: int) -> int:
    header, results = read_journal(out)
    last = {each.trial.point_id: each for each in results}
    missing = {point["id"] for point in header["points"]} - set(last)
    document = json.loads((out / "bench.json").read_text())
    left = [each.name for each in Path("/proc").iterdir() if _is_of(each, header["sweep_id"])]
    print(f"exit status {code}, {len(header['points'])} points, {len(results)} results")
    print("last results:", dict(Counter(str(each.status) for each in last.values())))
    print("marked:", sum(bool(each.marks) for each in results), "run again:", sum(each.trial.again for each in results))
    print("without a result:", sorted(missing) or "none", "| processes left:", left or "none")
    return 0 if not missing and not left and document["complete"] and code == 0 else 1


def _is_of(process: Path, sweep_id: str) -> bool:
    try:
        return f"GPUEXEC_BENCH_SWEEP={sweep_id}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _lines(out: Path) -> int:
    journal = out / NAME
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
