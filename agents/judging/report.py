"""The verdict of a judge as one page of HTML that needs nothing beside it, and that an outsider understands."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from drivedit.agents.judging.agreement import MEASURES, Estimate
from drivedit.agents.judging.judge import WELL, JudgeResult, Line
from drivedit.agents.judging.starts import FREE, GIVEN, REAL
from drivedit.utils import extra, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 40  # letters of a name in a table
MOST_NAMED = 12  # points with a name in the picture
NAMES = {REAL: "reality", GIVEN: "dream", FREE: "dream, told nothing"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } img { max-width: 100%; }
td, th { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; } .note { color: #666; font-size: .9rem; }
"""
MEANING = {
    "Pearson": "how close the points come to a straight line; 1 is best, 0 is chance",
    "Spearman": "whether the order of the policies is the same; 1 is best, 0 is chance",
    "Kendall": "pairs of policies in the right order minus pairs in the wrong one, as a share; 1 is best, 0 is chance",
    "MMRV": "mean maximum rank violation: how much real return a wrong order costs at worst, averaged over the "
    "policies, as a share of the way from the worst policy to the best; 0 is best",
}


def write_report(verdict: JudgeResult, path: str | Path) -> None:
    """Writes the page.

    Args:
        verdict: Of `drivedit.agents.judging.judge.judge`.
        path: The HTML file.
    """
    page = _page(verdict)
    write_atomically(path, lambda file: file.write(page.encode()))


def as_text(verdict: JudgeResult) -> str:
    """The figures for a terminal."""
    short, sides = short_names(verdict.returns), verdict.contest.sides
    width = max(18, *map(len, short.values()))
    rates = sides if verdict.by_ending else []
    head = "".join(f" {side:>26}" for side in sides) + f" {'confidence':>10}"
    lines = [f"{'policy':<{width}}{head}" + "".join(f" {f'{side} ended':>12}" for side in rates)]
    for name, returns in verdict.returns.items():
        cells = "".join(f" {_estimate(returns[side], 1):>26}" for side in sides)
        told = "".join(f" {verdict.rates[name][side].value:>12.2f}" for side in rates)
        lines.append(f"{short[name]:<{width}}{cells} {_number(verdict.confidence[name]):>10}{told}")
    for title, rows in _tables(verdict):
        lines += ["", f"{title:<62}" + "".join(f"{name:>22}" for name in MEASURES)]
        lines += [f"{row.label:<62}" + "".join(f"{cell:>22}" for cell in _cells(row)[1:]) for row in rows]
    lines += ["", *_repeats(verdict)] if verdict.needed else []
    lines += [f"\n{why}" for why in [_nothing_to_compare(verdict)] if why]
    lines += [f"failed: {why}" for why in verdict.failed.values()]
    return "\n".join(lines)


def _repeats(verdict: JudgeResult) -> list[str]:
    """From how many starts reality's own order by the share that ended would repeat itself, a line for each horizon."""
    lines = []
    for horizon, needed in verdict.needed.items():
        told = f"some {needed} starts are" if needed else "more starts are"
        known = "" if needed else f"; {verdict.contest.starts} tell nothing of how many"
        lines.append(
            f"{horizon} steps: {told} needed for reality's order by the share that ended to repeat itself with a rank "
            f"correlation of {WELL:g}{known}"
        )
    return lines


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names for tables and pictures: of files, as little of the path as tells them apart; none is long."""
    names, short = list(names), {}
    for name in names:
        parts = Path(name).with_suffix("").parts if name.endswith((".safetensors", ".zip")) else (name,)
        tails = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        alone = [tail for tail in tails if sum(_ends(other, tail) for other in names) == 1]
        short[name] = (alone or [name])[0]
    return {name: text if len(text) <= LONGEST else f"...{text[3 - LONGEST :]}" for name, text in short.items()}


def _ends(name: str, tail: str) -> bool:
    """Whether a name, without the suffix of a file, ends with these parts of a path."""
    whole = str(Path(name).with_suffix("")) if name.endswith((".safetensors", ".zip")) else name
    return f"/{whole}".endswith(f"/{tail}")


def _nothing_to_compare(verdict: JudgeResult) -> str:
    """Why no figure says how the two orders agree; empty if one does."""
    for side in verdict.contest.sides:
        values = [returns[side].value for returns in verdict.returns.values()]
        if max(values) - min(values) < 1e-6:
            where = "in reality" if side == REAL else "in the dream"
            return (
                f"nothing can be compared: every policy has the same return {where}. Choose policies that differ in "
                "skill, a longer --horizon, or more --starts"
            )
    return ""


def _page(verdict: JudgeResult) -> str:
    contest, overall = verdict.contest, verdict.overall
    rank = overall.figures["Spearman"]
    order = "cannot be compared" if math.isnan(rank.value) else f"agree with a rank correlation of {rank.text()}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Can the dream judge drivers?</title>",
        f"<style>{STYLE}</style></head><body><h1>Can the dream judge drivers?</h1>",
        f"<p>{overall.policies} driving policies drove in the dream <code>{escape(contest.dream)}</code> and in "
        f"reality <code>{escape(contest.reality)}</code>, each from the same {contest.starts} starts (seeds "
        f"from {contest.first_seed} on), for at most {contest.horizon} steps. "
        f"The score of a drive is its return, the sum of its rewards. <strong>The two orders of the policies {order}."
        "</strong> Where the dream orders policies as reality does, it can be asked about policies that never drove in "
        "reality; where it does not, it cannot.</p>",
        _image(verdict),
        "<p class='note'>Each point is a policy. Bars are 95% bootstrap intervals of its mean return over the starts. "
        "On the dashed line, dream and reality give the same return; the policies farthest from it have names.</p>",
        "<h2>What the figures say</h2><ul>",
        *(f"<li><strong>{name}</strong>: {MEANING[name]}.</li>" for name in MEASURES),
        "</ul><p>The brackets are 95% intervals of a bootstrap over policies and starts: where other policies of this "
        "kind from other starts would put the figure. Small numbers of starts make wide brackets.</p>",
    ]
    for title, rows in _tables(verdict):
        parts.append(_table([title, "policies", *MEASURES], [_cells(row, True) for row in rows]))
    if verdict.needed:
        parts.append(f"<p class='note'>{'; '.join(map(escape, _repeats(verdict)))}. Where the halves of reality do not "
                     "agree, no dream can be asked to agree with it.</p>")  # fmt: skip
    parts.append(
        "<p class='note'>The better half are the policies whose real return is at least the median: telling good "
        "from good is harder than telling good from bad. Where the dream says how confident it is, steps of low "
        "confidence can be cut off: a drive then counts the horizon times the mean reward of the steps that stay. "
        "Cut from the dream alone, this is what somebody could do who does not know reality; it favours the policies "
        "whose surest steps are their best. Cut from both, it shows whether the dream is right where it is sure."
        "</p><h2>The policies</h2>"
    )
    parts.append(_policies(verdict))
    if verdict.failed:
        parts.append("<h2>Not judged</h2><ul>")
        parts += [f"<li>{escape(why)}</li>" for why in verdict.failed.values()]
        parts.append("</ul>")
    return "\n".join([*parts, "</body></html>\n"])


def _policies(verdict: JudgeResult) -> str:
    """The table of all policies."""
    short, sides = short_names(verdict.returns), verdict.contest.sides
    head = [
        "policy, best in reality first",
        *(f"return: {NAMES[side]}" for side in sides),
        "steps driven",
        "confidence",
    ]
    head += ["share that ended", "by what in reality"] if verdict.by_ending else []
    rows = []
    for name, returns in verdict.returns.items():
        row = [short[name], *(_estimate(returns[side], 1) for side in sides)]
        row += [", ".join(f"{verdict.steps[name][side]:.0f}" for side in sides), _number(verdict.confidence[name])]
        if verdict.by_ending:
            row.append(", ".join(f"{verdict.rates[name][side].value:.2f}" for side in sides))
            row.append(", ".join(f"{why} {count}" for why, count in verdict.endings[name].items()))
        rows.append(row)
    order = ", ".join(NAMES[side] for side in sides)
    return f"<p class='note'>Where a cell has several numbers: {order}.</p>{_table(head, rows)}"


def _tables(verdict: JudgeResult) -> list[tuple[str, list[Line]]]:
    """Titles and lines of the tables of agreement."""
    tables = [
        ("agreement", [verdict.overall, verdict.upper]),
        ("returns by horizon", verdict.by_horizon),
        ("share that ended by horizon", verdict.by_ending),
        ("by confidence", verdict.by_confidence),
    ]
    return [(title, lines) for title, lines in tables if lines]


def _cells(line: Line, count: bool = False) -> list[str]:
    """A line of a table."""
    figures = [_estimate(line.figures[name], 3) if line.figures else "too few" for name in MEASURES]
    return [line.label, *([str(line.policies)] if count else []), *figures]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _image(verdict: JudgeResult) -> str:
    """The scatter plot, as an image inside the page."""
    with extra("agents", "the page of a judgement"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    values = []
    for sides in verdict.returns.values():
        real, dream = sides["real"], sides["dream"]
        axes.errorbar(real.value, dream.value, _bar(dream), _bar(real), "o", color="C0", markersize=4, elinewidth=0.6)
        values += [real.value, dream.value]
    axes.plot([min(values), max(values)], [min(values), max(values)], "--", color="grey", linewidth=0.8)
    axes.set_aspect("equal", "datalim")
    axes.set(xlabel="mean return in reality", ylabel="mean return in the dream")
    axes.grid(alpha=0.3)
    _label(axes, {name: (sides["real"].value, sides["dream"].value) for name, sides in verdict.returns.items()})
    data = io.BytesIO()
    figure.savefig(data, dpi=110, format="png")
    encoded = base64.b64encode(data.getvalue()).decode()
    return f"<img alt='mean return of every policy in reality and in the dream' src='data:image/png;base64,{encoded}'>"


def _label(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Names the points farthest from the dashed line, where there is room; the others are in the table."""
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in axes.transData.transform([*points.values()])]
    short = short_names(points)
    astray = sorted(points.items(), key=lambda point: -abs(point[1][0] - point[1][1]))
    for name, point in astray[:MOST_NAMED]:
        for right, up in itertools.product((1, -1), (3, -9)):
            side = "left" if right > 0 else "right"
            text = axes.annotate(short[name], point, (5 * right, up), textcoords="offset points", fontsize=7, ha=side)
            place = text.get_window_extent(renderer).padded(3)
            inside = axes.bbox.containsx(place.x0) and axes.bbox.containsx(place.x1)
            if inside and place.count_overlaps(taken) == 0:
                taken.append(place)
                break
            text.remove()


def _bar(estimate: Estimate) -> list[list[float]]:
    """Lengths of an error bar; never negative, for a percentile interval may miss the mean."""
    return [[max(estimate.value - estimate.low, 0.0)], [max(estimate.high - estimate.value, 0.0)]]


def _estimate(estimate: Estimate, digits: int) -> str:
    return "-" if math.isnan(estimate.value) else estimate.text(digits)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
