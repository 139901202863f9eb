"""Plots of a job's samples as SVG without a script: one line each, limits drawn in, and the same in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

from pilot.report.text import duration, escape, quantity, size
from pilot.store.viewrows import Limit, Sample

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 660, 160, 66, 20, 24
_POINTS = 300
"""Of a line at most."""
_LIMIT_IN_SIGHT = 4.0
"""A limit that is more than so many times as far away is written, not drawn: the line would be flat."""

Points = Sequence[tuple[float, float]]
"""(s since the first sample, value)."""


class Line(NamedTuple):
    """A line of a plot."""

    name: str
    points: Points


class Plot(NamedTuple):
    """One picture."""

    title: str
    words: str
    """What it shows, for those who do not see it."""
    svg: str


def plots_of(samples: Sequence[Sample], limits: Sequence[Limit]) -> list[Plot]:
    """Return the plots for which there is something to show."""
    if len(samples) < 2:
        return []
    start = samples[0].at
    known = {limit.name: limit for limit in limits}

    def line(name: str, value: Callable[[Sample], float]) -> Line:
        return Line(name, _fewer([(max(0.0, sample.at - start), value(sample)) for sample in samples]))

    found = [_plot("Memory", [line("PSS", lambda sample: sample.pss), line("RSS", lambda sample: sample.rss),
                              line("swap", lambda sample: sample.swap)], size, known.get("memory")),
             _plot("Cores in use", [line("cores", lambda sample: sample.cores)], lambda value: f"{value:.2f}",
                   known.get("cores")),
             _plot("Input and output per second", [_rate("read", samples, "read_bytes"),
                                                   _rate("written", samples, "write_bytes")],
                   lambda value: f"{size(value)}/s", None),
             _plot("Size of the job's directory", [line("directory", lambda sample: sample.workdir)], size,
                   known.get("workdir")),
             _plot("Processes", [line("processes", lambda sample: sample.processes)], lambda value: f"{value:.0f}",
                   known.get("processes"))]
    return [plot for plot in found if plot is not None]


def _rate(name: str, samples: Sequence[Sample], field: str) -> Line:
    """Return how fast a counter has grown; one that begins anew (the next turn) counts from 0."""
    points = []
    for before, after in zip(samples, samples[1:]):
        seconds = after.at - before.at
        if seconds > 0:
            grown = max(0, getattr(after, field) - getattr(before, field))
            points.append((max(0.0, after.at - samples[0].at), grown / seconds))
    return Line(name, _fewer(points))


def _fewer(points: Points) -> Points:
    """Return at most _POINTS of the points: of each step in time the largest value."""
    if len(points) <= _POINTS:
        return points
    step = len(points) / _POINTS
    groups = [points[int(number * step):int((number + 1) * step)] for number in range(_POINTS)]
    return [max(group, key=lambda point: point[1]) for group in groups if group]


def _plot(title: str, lines: Sequence[Line], unit: Callable[[float], str], limit: Limit | None) -> Plot | None:
    lines = [line for line in lines if any(value > 0 for _, value in line.points)]
    if not lines:
        return None
    highest = max(value for line in lines for _, value in line.points)
    length = max(at for line in lines for at, _ in line.points) or 1.0
    drawn = limit is not None and limit.value <= highest * _LIMIT_IN_SIGHT
    top = max(highest, limit.value if limit is not None and drawn else 0.0) * 1.08
    words = "; ".join(f"{line.name}: at most {unit(max(value for _, value in line.points))}, "
                      f"last {unit(line.points[-1][1])}" for line in lines) + f"; over {duration(length)}"
    if limit is not None:
        words += f"; limit {quantity(limit.value, limit.unit)} ({limit.origin})"
    parts = [_frame(top, length, unit)]
    for number, line in enumerate(lines):
        parts.append(f'<polyline class="l{number}" points="{_path(line.points, top, length)}"/>')
    if limit is not None and drawn:
        y = _y(limit.value, top)
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>'
                     f'<text class="limit" x="{_WIDTH - 4}" y="{max(y - 4, 9)}" text-anchor="end">limit</text>')
    for number, line in enumerate(lines):
        parts.append(f'<text class="t{number}" x="{_LEFT + 6 + 80 * number}" y="{_TOP - 8}">{line.name}</text>')
    return Plot(title, words, svg(_WIDTH, _HEIGHT, f"{title}. {words}", "".join(parts)))


def svg(width: int, height: int, words: str, content: str) -> str:
    """Return an SVG that says in words what it shows."""
    return (f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{escape(words)}">{content}</svg>')


def _path(points: Points, top: float, length: float) -> str:
    return " ".join(f"{_x(at, length)},{_y(value, top)}" for at, value in points)


def _x(at: float, length: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT) * at / length, 1)


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * min(value / top, 1.0), 1)


def _frame(top: float, length: float, unit: Callable[[float], str]) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _y(top * share, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y}" y2="{y}"/>'
                     f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(unit(top * share))}</text>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(f'<text x="{_x(length * share, length)}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
                     f'{escape(duration(length * share))}</text>')
    return "".join(parts)
