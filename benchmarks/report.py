"""From figures to tables, JSON and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.catalogue import CASES
from benchmarks.servers import FLOOR

#: case -> server -> figure -> its value in each round
Results = dict[str, dict[str, dict[str, list[float]]]]


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """One value for each figure."""
    return {name: median(values) for name, values in figures.items()}


def show(value: float) -> str:
    """Three digits, as a person reads them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(case_name: str, servers: Mapping[str, Mapping[str, list[float]]]) -> str:
    """A case's figures as a Markdown table, with the ratios to ours (the first) and to the floor's."""
    case = CASES[case_name]
    rows = {name: medians(figures) for name, figures in servers.items()}
    figures = list(next(iter(rows.values())))
    compared = [name for name in (case.kinds[0], FLOOR) if name in rows and len(rows) > 1]
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


def comparison(
    case_name: str, other: str, ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]]
) -> str:
    """This tree and another one, measured in pairs: the medians, and the ratio of each pair.

    The last column compares the best round of both. On a busy machine it is the steadiest for CPU
    seconds, because what others do can only add to them.
    """
    lines = [
        f"### {case_name}: {CASES[case_name].about}",
        "",
        _row(["figure", "this tree", other, "ratio", "of the pairs", "of the best"]),
        _row(["---", *["---:"] * 5]),
    ]
    for figure, values in ours.items():
        ratios = sorted(map(_ratio, values, theirs[figure]))
        both = (show(median(found[figure])) for found in (ours, theirs))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        best = max if figure.endswith("/s") else min
        of_best = _ratio(best(values), best(theirs[figure]))
        lines.append(_row([figure, *both, f"{median(ratios):.2f}", spread, f"{of_best:.2f}"]))
    return "\n".join(lines) + "\n"


def _ratio(one: float, other: float) -> float:
    return one / other if other else 1.0


#: Between these two, a page has the figures.
MARKS = "<!-- figures -->\n", "<!-- end of figures -->\n"


def fill(page: Path, figures: str) -> None:
    """Replace the figures of a page. Raises ValueError if it has no marks for them."""
    before, begin, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f"{page} has no {MARKS[0].strip()} with {MARKS[1].strip()} behind it")
    page.write_text(f"{before}{begin}\n{figures}\n{end}{after}")


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
        colours = ["tab:orange" if name == case.kinds[0] else "tab:gray" for name in names]
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
