"""The table of docs/ray.md: what each option means on a Ray cluster, from ``gpuexec.executors.ray.meanings``."""

from pathlib import Path

from gpuexec.executors.ray.meanings import MEANINGS

PAGE = Path(__file__).parents[2] / "docs" / "ray.md"
BEGIN, END = "<!-- table of options: made by scripts/make-reference -->", "<!-- end of the table -->"


def ray_page() -> str:
    """Return the page, which is written by hand, with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = ["| option | on Ray | meaning, or what to use |", "|---|---|---|"]
    rows += [
        f"| `{name}` | {'honoured' if meaning.honoured else 'refused'} | {meaning.text} |"
        for name, meaning in MEANINGS.items()
    ]
    table = "\n".join(rows)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
