"""The stages of a job as bars over time, SVG without a script; what broke the job off is marked."""

from __future__ import annotations

from pilot.report.facts import JobFacts, aborts_of
from pilot.report.plots import svg
from pilot.report.text import clean, duration, escape

_WIDTH, _LEFT, _RIGHT, _ROW = 660, 90, 124, 22
_ROWS, _MARKS = 20, 5


def timeline(facts: JobFacts) -> str:
    """Return the picture, '' when there is nothing to show."""
    spans = facts.spans[:_ROWS]
    if not spans:
        return ""
    start = min(span.began for span in spans)
    length = max(span.began + span.seconds(facts.now) for span in spans) - start or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / length

    def x(at: float) -> float:
        return round(_LEFT + min(max(0.0, at - start), length) * scale, 1)

    parts, words = [], []
    for row, span in enumerate(spans):
        y, seconds = row * _ROW, span.seconds(facts.now)
        width = max(1.5, round(seconds * scale, 1))
        state = "" if span.ended is not None else " so far"
        words.append(f"{span.stage} {duration(seconds)}{state}")
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 15}" text-anchor="end">{escape(span.stage)}</text>'
                     f'<rect class="stage s-{escape(span.stage)}" x="{x(span.began)}" y="{y + 4}" width="{width}" '
                     f'height="14" rx="2"/><text x="{round(x(span.began) + width + 4, 1)}" y="{y + 15}">'
                     f'{escape(duration(seconds) + state)}</text>')
    height = len(spans) * _ROW + 4
    for at, event, _state, detail in aborts_of(facts.story)[:_MARKS]:
        words.append(f"{event} after {duration(at - start)}: {clean(detail, 100)}")
        parts.append(f'<line class="limit" x1="{x(at)}" x2="{x(at)}" y1="0" y2="{height}"/>')
    return svg(_WIDTH, height, f"Stages of the job: {'; '.join(words)}", "".join(parts))
