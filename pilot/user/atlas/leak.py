"""Does a payload lose memory? A straight line through its memory over time: pure functions on columns of numbers.

y = pss + swap (kB) over x = time (s); ``leak`` is the slope (kB/s). Source: control and monitoring document, 11.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence

LEAST_POINTS = 8
LONG = 100
"""From here on the ends are cut as far as that makes the fit better; below it the known start and end are left out."""
CUT = 5
GAIN = 0.25
"""A cut goes on while it lowers chi2 by this share."""
MOST_POINTS = 5000
_FIRST, _LAST = 5, 2


class Fit(NamedTuple):
    """A straight line through the points."""

    slope: float
    """kB/s."""
    intersect: float
    """kB at time 0."""
    chi2: float


def line_fit(x: Sequence[float], y: Sequence[float]) -> Optional[Fit]:
    """Return the line of least squares, None when all points have the same x, or there are fewer than two."""
    count = len(x)
    if count < 2:
        return None
    mean_x, mean_y = sum(x) / count, sum(y) / count
    spread = sum((value - mean_x) ** 2 for value in x)
    if spread == 0:
        return None
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / spread
    intersect = mean_y - slope * mean_x
    chi2 = 0.0
    for a, b in zip(x, y):
        expected = intersect + slope * a
        if expected == 0:
            chi2 = 0.0
            break
        chi2 += ((b - expected) / expected) ** 2
    return Fit(slope, intersect, chi2)


def leak_fit(x: Sequence[float], y: Sequence[float], *, final: bool) -> Optional[Fit]:
    """Return the line that says how the payload's memory grows, None when there are too few points.

    Args:
        x: times, s.
        y: pss + swap, kB.
        final: the payload has ended: allocation at its start and release at its end are among the points.
    """
    count = min(len(x), len(y))
    if count < LEAST_POINTS:
        return None
    stride = -(-count // MOST_POINTS)
    x, y = list(x[:count:stride]), list(y[:count:stride])
    count = len(x)
    if count >= LONG:
        right = _cut_end(x, y)
        x, y = x[:right], y[:right]
        left = len(x) - _cut_end(x[::-1], y[::-1])
        x, y = x[left:], y[left:]
    elif final:
        x, y = x[_FIRST:-_LAST], y[_FIRST:-_LAST]
    return line_fit(x, y)


def _cut_end(x: Sequence[float], y: Sequence[float]) -> int:
    """Return how many points stay when the end is cut by 5 points at a time, as long as chi2 falls by a quarter.

    More than two thirds stay; when chi2 has not stopped to fall until then, nothing is cut.
    """
    count = stay = len(x)
    best = line_fit(x, y)
    while best is not None and best.chi2 > 0:
        if (stay - CUT) * 3 <= 2 * count:
            return count
        fit = line_fit(x[: stay - CUT], y[: stay - CUT])
        if fit is None or fit.chi2 > (1 - GAIN) * best.chi2:
            break
        best, stay = fit, stay - CUT
    return stay
