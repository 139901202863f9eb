"""What a benchmark has found: medians beside the target, the reference pilot and the floor, and the table of them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import List, Optional, Sequence


@dataclass
class Figure:
    """One figure.

    values: one per run, in ``unit``.  target: 'at most' this much.  reference: Pilot 3's figure ('Reference figures' of
    the design).  floor: the least that is possible here, measured beside it where it can be.  All in the same unit.
    """

    name: str
    values: Sequence[float]
    unit: str = "s"
    target: Optional[float] = None
    reference: Optional[float] = None
    floor: Optional[float] = None
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the runs."""
        return statistics.median(self.values)


@dataclass
class Table:
    """All figures; each is printed when it comes."""

    figures: List[Figure] = field(default_factory=list)

    def head(self) -> None:
        """Print the names of the columns."""
        print(
            f"{'figure':<63} {'median':>12} {'n':>3} {'min..max':>15} {'target':>9}{'':5} {'reference':>9} {'x ref':>7}"
            f" {'floor':>8} {'x floor':>7}"
        )

    def title(self, text: str) -> None:
        """Print the head line of a section."""
        print(f"-- {text}", flush=True)

    def add(
        self,
        name: str,
        values: Sequence[float],
        unit: str = "s",
        *,
        target: Optional[float] = None,
        reference: Optional[float] = None,
        floor: Optional[float] = None,
        note: str = "",
    ) -> Figure:
        """Keep a figure and print its line."""
        figure = Figure(name, list(values), unit, target, reference, floor, note)
        self.figures.append(figure)
        print(_line(figure), flush=True)
        return figure

    def over(self) -> List[Figure]:
        """The figures whose median is above the target."""
        return [figure for figure in self.figures if figure.target is not None and figure.median > figure.target]


def _line(figure: Figure) -> str:
    middle = figure.median
    judged = "" if figure.target is None else "ok" if middle <= figure.target else "OVER"
    spread = f"{_short(min(figure.values))}..{_short(max(figure.values))}" if len(figure.values) > 1 else ""
    return (
        f"{figure.name:<63} {_short(middle):>8} {figure.unit:<3} {len(figure.values):>3} {spread:>15} "
        f"{_short(figure.target):>9} {judged:4} {_short(figure.reference):>9} {_ratio(middle, figure.reference):>7} "
        f"{_short(figure.floor):>8} {_ratio(middle, figure.floor):>7}{'  ' + figure.note if figure.note else ''}"
    )


def _short(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(value: float, base: Optional[float]) -> str:
    return "" if not base else f"{value / base:.3g}"
