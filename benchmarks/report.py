"""From figures to tables, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cases import CASES
from benchmarks.servers import FLOOR, OURS

#: case -> server -> figure -> its value in each round
Results = dict[str, dict[str, dict[str, list[float]]]]


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """One value for each figure."""
    return {name: median(values) for name, values in figures.items()}


def show(value: float) -> str:
    """Three digits, as a person reads them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(case_name: str, servers: Mapping[str, Mapping[str, list[float]]]) -> str:
    """A case's figures as a Markdown table, with the ratios to ours and to the floor's."""
    case = CASES[case_name]
    rows = {name: medians(figures) for name, figures in servers.items()}
    figures = list(next(iter(rows.values())))
    compared = [name for name in (OURS, FLOOR) if name in rows and len(rows) > 1]
    head = ["server", *figures, *(f"{case.compare} / {name}'s" for name in compared)]
    lines = [
        f"### {case_name}: {case.about}",
        "",
        _row(head),
        _row(["---", *["---:"] * (len(head) - 1)]),
    ]
    for name, row in rows.items():
        ratios = [row[case.compare] / (rows[other][case.compare] or 1e-9) for other in compared]
        lines.append(_row([name, *(show(row[f]) for f in figures), *(f"{r:.2f}" for r in ratios)]))
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(results: Results, folder: Path) -> list[Path]:
    """A bar chart as SVG for each case that compares servers."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import

    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - the same

    mpl.rcParams["svg.hashsalt"] = "trionotify"  # the same figures make the same file
    written = []
    for case_name, servers in results.items():
        if len(servers) < 2:
            continue
        case = CASES[case_name]
        values = {name: medians(figures)[case.compare] for name, figures in servers.items()}
        names = sorted(values, key=lambda name: -values[name])
        figure, axes = plt.subplots(figsize=(7, 0.35 * len(names) + 0.9), layout="constrained")
        colours = ["tab:orange" if name == OURS else "tab:gray" for name in names]
        bars = axes.barh(names, [values[name] for name in names], color=colours)
        axes.bar_label(bars, [show(values[name]) for name in names], padding=3)
        axes.set_title(case.about, fontsize=10)
        axes.set_xlabel(case.compare)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{case_name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written


def document(machine: dict[str, str], versions: dict[str, str], results: Results) -> dict[str, Any]:
    """All of a run, for JSON."""
    return {"machine": machine, "versions": versions, "results": results}
