"""Removes duplicates from a small corpus that it makes: exact copies first, then texts that are nearly the same.

    python examples/dedup_docs.py OUTPUT

Both run on worker processes, without a GPU. docs/dedup.md explains the settings and the files in OUTPUT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from pydoc_data.topics import topics

from gpuexec import GpuexecError, LocalExecutor
from gpuexec.dedup import ExactDeduplication, FuzzyDeduplication


def write_corpus(path: Path) -> None:
    """Write the language reference that Python brings along: some topics twice, some with a small change."""
    rows = []
    for number, (name, text) in enumerate(sorted(topics.items())):
        rows.append({"id": name, "text": text})
        if number % 10 == 0:
            rows.append({"id": f"{name} (copy)", "text": text})
        if number % 10 == 5:
            rows.append({"id": f"{name} (edited)", "text": text.replace("the", "THE", 1) + "\nEdited."})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(output: Path) -> None:
    write_corpus(output / "corpus" / "topics.jsonl")
    executor = LocalExecutor()
    exact = ExactDeduplication(output / "corpus", output / "exact", id="id", remove=True, overwrite=True).run(executor)
    print(f"--- exact\n{exact}")
    fuzzy = FuzzyDeduplication(exact.kept, output / "fuzzy", id="id", remove=True, overwrite=True).run(executor)
    print(f"--- fuzzy\n{fuzzy}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    try:
        main(parser.parse_args().output)
    except GpuexecError as error:
        raise SystemExit(f"error: {error}") from error
