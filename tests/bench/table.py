"""The benchmarks' figures as a table and a plot: `python -m tests.bench.table REPORT` writes them into docs/.

REPORT is pytest-benchmark's JSON. What the table needs of it is kept as `docs/bench.json`, the table stands between two
markers in `docs/benchmarks.md`, the plot is `docs/images/growth.png`; the README's words on speed are made of it, too.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.bench.side_by_side import Target, judged

from fisao_pipeline.commands.study_docs import put_table

DOCS = Path(__file__).parents[2] / "docs"
HEAD = ["what", "against", "ratio (range)", "target", "met", "ours", "theirs"]
# Rows that the README speaks of, and how.
ROUND = ("whole rounds, K = 4", "TRL GRPO, rewards summed a response")
SAMPLING = ("sampling, K = 4", "TRL GRPO's generation")
UPDATE = ("update, K = 8", "TRL GRPO on the same rollouts")
MEMORY = ("update, peak tensor memory above the weights", "TRL GRPO on the same rollouts")
SHELL = ("Kedro, MLflow and manifests in `train`", "the whole of it, one process from its start to its end")
TIMES = "{:.1f}".format
BEGIN, END = "<!-- speed -->", "<!-- /speed -->"
GROWTH_HEAD = ["grows", "stage", "amounts"]
GROWTH_HEAD += [cell for name in ("seconds", "MiB at most") for cell in (name, "exponent", "target", "met")]
# Exponents of time and of memory. Work is linear in all three; attention, which sees more of a longer response, and the
# spread of measurements are what is above 1. Of pictures as many as a batch holds are there at once, however many there
# are; a response, and each of its tokens, may take its own memory.
GROWTH_TARGETS = {
    "pictures": (Target(1.15, at_most=True), Target(0.15, at_most=True)),
    "responses of each": (Target(1.15, at_most=True), Target(1.15, at_most=True)),
    "tokens of each": (Target(1.15, at_most=True), Target(1.15, at_most=True)),
}


def kept(report: Mapping[str, Any]) -> dict[str, Any]:
    """The part of pytest-benchmark's report that the table is made of."""
    machine, commit = report["machine_info"], report["commit_info"]
    infos = [entry["extra_info"] for entry in report["benchmarks"]]
    return {
        "machine": {
            "cpu": machine["cpu"].get("brand_raw", machine["processor"]),
            "cores": machine["cpu"].get("count"),
            "python": machine["python_version"],
        },
        "commit": commit.get("id", "")[:7] + ("+" if commit.get("dirty") else ""),
        "date": report["datetime"][:10],
        "rows": [row for info in infos for row in info.get("rows", [])],
        "growth": [line for info in infos for line in info.get("growth", [])],
    }


def exponent(amounts: Sequence[float], values: Sequence[float]) -> float:
    """p of value ∝ amount^p, by least squares on logarithms; 1 is linear, 0 is flat."""
    return float(np.polyfit(np.log(amounts), np.log(values), 1)[0])


def page(bench: Mapping[str, Any]) -> str:
    """Both tables in Markdown."""
    machine = bench["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, commit `{bench['commit']}`"
    said = f"{where}, {bench['date']}. Medians of rounds in which all take turns, and their range."
    rows = [_cells(row) for row in bench["rows"]]
    growth = [_growth_cells(line) for line in bench["growth"]]
    return "\n\n".join([said, markdown_table(HEAD, rows), markdown_table(GROWTH_HEAD, growth)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    what = row["title"] + (f" ({row['note']})" if row.get("note") else "")
    if row.get("missing"):
        return [what, row["against"], f"not run: {row['missing']}", *_against_target(row), row.get("ours", ""), ""]
    ratio = f"{row['median']:.3g} ({row['low']:.3g} – {row['high']:.3g})"
    return [what, row["against"], ratio, *_against_target(row), row.get("ours", ""), row.get("theirs", "")]


def _against_target(found: Mapping[str, Any]) -> list[str]:
    return [found.get("target", ""), {True: "yes", False: "**no**", None: ""}[found.get("met")]]


def _growth_cells(line: Mapping[str, Any]) -> list[str]:
    seconds, mebibytes = zip(*line["points"], strict=True)
    columns = []
    for values, target in zip((seconds, mebibytes), GROWTH_TARGETS[line["axis"]], strict=True):
        # As it is printed; no minus zero.
        power = round(exponent(line["amounts"], values), 2) + 0.0
        columns += [", ".join(f"{v:.3g}" for v in values), f"{power:.2f}", *_against_target(judged([power], target))]
    return [line["axis"], line["stage"], ", ".join(map(str, line["amounts"])), *columns]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells, whatever they hold."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def plot(growth: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Seconds and mebibytes over what grows, on logarithmic axes, with a line of slope 1 to compare with."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(line["axis"] for line in growth))
    figure = Figure(figsize=(4 * len(axes_names), 6), layout="constrained")
    panels = figure.subplots(2, len(axes_names), squeeze=False)
    for line in growth:
        column = axes_names.index(line["axis"])
        for panel, values in zip(panels[:, column], zip(*line["points"], strict=True), strict=True):
            panel.loglog(line["amounts"], values, marker="o", label=line["stage"])
    for column, name in enumerate(axes_names):
        amounts = np.array(next(line["amounts"] for line in growth if line["axis"] == name), dtype=float)
        for panel, label in zip(panels[:, column], ("seconds", "MiB at most"), strict=True):
            low = panel.get_ylim()[0]
            panel.loglog(amounts, low * amounts / amounts[0], color="grey", linestyle="dotted", label="linear")
            panel.set(xlabel=name, ylabel=label)
            panel.set_xticks(amounts, [f"{amount:.0f}" for amount in amounts], minor=False)
            panel.minorticks_off()
    panels[0, 0].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def headline(bench: dict[str, Any]) -> str:
    """What the README says of it; a dash where nothing was measured."""
    ratios = {(row["title"], row["against"]): row.get("median") for row in bench["rows"]}

    def said(row: tuple[str, str], form: Callable[[float], str]) -> str:
        ratio = ratios.get(row)
        return "–" if ratio is None else form(ratio)

    text = (
        "Side by side with TRL 1.16's GRPOTrainer on the same pocket LLaVA, prompts and batches, on one thread of a "
        f"CPU: a whole round takes {said(ROUND, lambda ratio: f'{1 / ratio:.0%}')} of its time for each response "
        f"({said(ROUND, TIMES)} times as fast; sampling {said(SAMPLING, TIMES)}, update at K = 8 {said(UPDATE, TIMES)} "
        f"times), and the update {said(MEMORY, '{:.0%}'.format)} of its memory above the weights. Kedro, MLflow and "
        f"manifests are {said(SHELL, '{:.1%}'.format)} of `train`. What a GPU makes of it was not measured yet: "
        "[docs/benchmarks.md](docs/benchmarks.md#speed-side-by-side)."
    )
    return textwrap.fill(text, 128, break_long_words=False, break_on_hyphens=False)


def put_headline(readme: str, bench: dict[str, Any]) -> str:
    """The README with it between its two markers.

    Raises:
        ValueError: There are none.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"the README needs one line '{BEGIN}' and after it one line '{END}', for what is said of speed"
        )
    return f"{before}{BEGIN}\n{headline(bench)}\n{END}{after}"


def main(report: Path, docs: Path = DOCS, readme: Path = DOCS.parent / "README.md") -> None:
    """Write JSON, table and plot, and what the README says of it."""
    bench = kept(json.loads(report.read_text(encoding="utf-8")))
    text = put_table((docs / "benchmarks.md").read_text(encoding="utf-8"), page(bench))
    said = put_headline(readme.read_text(encoding="utf-8"), bench)
    (docs / "bench.json").write_text(json.dumps(bench, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if bench["growth"]:
        plot(bench["growth"], docs / "images" / "growth.png")
    (docs / "benchmarks.md").write_text(text, encoding="utf-8")
    readme.write_text(said, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
