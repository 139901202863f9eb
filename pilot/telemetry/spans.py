"""Turns what the PilotDB knows of a job into a tree of spans: the job, its stages, its transfers. Pure, no clock.

::

    job 6500000001                    attributes: ids, state, error
    ├── getjob · validate · stagein · payload · stageout · report · clean      (stages that the job has seen)
    │                          ├── transfer ...   one per attempt, with its id; a failed one has the error
    │                          └── setup · run · log
    └── events: kill, limit, signal
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Union

from pilot.store.pilotdb import ErrorRow, JobRow

Value = Union[str, int, float, bool]

MOST_TRANSFERS = 1000
"""Transfers of a job that become spans: failed ones first, then the longest; the job's span has their number."""
_STAGES = {"received": "validate", "reporting": "report", "cleaning": "clean"}
"""Names of stages that differ from those of the life cycle."""
_DONE = "done"
_HOME = {"stage-in": "stagein", "stage-out": "stageout", "log": "stageout"}
"""Direction of a transfer -> its stage."""
_PARTS = {"setup": ("payload", "setup"), "payload": ("payload", "run"), "log": ("stageout", "log")}
"""Span of a job's timing -> (its stage, its name)."""


class Happening(NamedTuple):
    """Something that came from outside of the stage."""

    at: float
    """Epoch s."""
    name: str
    text: str


class Span(NamedTuple):
    """One span; times are epoch s."""

    name: str
    start: float
    end: float
    attributes: Mapping[str, Value] = {}
    error: str = ""
    """Why it has failed, empty when it has not."""
    events: tuple[Happening, ...] = ()
    children: tuple[Span, ...] = ()


class Facts(NamedTuple):
    """What the PilotDB does not hold of a job."""

    task: str = ""
    label: str = ""
    seconds: Mapping[str, float] = {}
    """Lengths by name, as in ``JobTiming.spans``."""
    began: Mapping[str, float] = {}
    """Epoch s by name, as in ``JobTiming.wall``."""


def job_span(
    row: JobRow, facts: Facts, story: Sequence[tuple[float, str, str, str]], transfers: Sequence[Mapping[str, object]],
    errors: Sequence[ErrorRow], primary: tuple[int, str], now: float, moved: int = 0,
) -> Span:
    """Return the span of a job with all below it.

    Args:
        row: the job.
        facts: ids and lengths.
        story: (time, event, stage, detail) of each step.
        transfers: rows of the table of that name that are to be spans.
        errors: its errors.
        primary: code and text of the reported one, (0, "") without any.
        now: epoch s; ends what has not ended.
        moved: how many transfers there were.
    """
    begin = row.granted - max(0.0, facts.seconds.get("getjob", 0.0))
    stages = [Span("getjob", begin, row.granted), *_stages(row.granted, story, now)]
    children = tuple(_furnished(stage, facts, transfers) for stage in stages)
    outcome = next((detail for _, event, _, detail in reversed(story) if event == "reported"), "")
    code, text = primary
    return Span(
        f"job {row.job_id}", begin, max([begin, *(child.end for child in children)]),
        _known({
            "panda.job.id": row.job_id, "panda.job.attempt": row.attempt, "panda.task.id": facts.task,
            "panda.job.label": facts.label, "panda.job.state": outcome or row.state, "panda.error.code": code,
            "panda.error.text": text, "panda.errors": ",".join(str(error.code) for error in errors),
            "panda.payload.exit_code": row.exit_code, "panda.transformation": row.transformation[:200],
            "panda.transfers": moved}),
        error=text or "failed" if code or outcome == "failed" else "", children=children)


def _stages(granted: float, story: Sequence[tuple[float, str, str, str]], now: float) -> list[Span]:
    stages: list[Span] = []
    name, begin, happened = _STAGES["received"], granted, list[Happening]()
    for at, event, state, detail in story:
        following = _STAGES.get(state, state)
        if following == name:
            happened.append(Happening(at, event, detail))
            continue
        bad = event.endswith("_failed") or event == "rejected"
        stages.append(Span(name, begin, max(begin, at), error=(detail or event) if bad else "", events=tuple(happened)))
        name, begin, happened = following, at, []
    if name != _DONE:
        stages.append(Span(name, begin, max(begin, now), error="it had not ended", events=tuple(happened)))
    return stages


def _furnished(stage: Span, facts: Facts, transfers: Iterable[Mapping[str, object]]) -> Span:
    """Return the stage with its parts and transfers."""
    parts = [Span(name, facts.began[timed], facts.began[timed] + facts.seconds[timed])
             for timed, (home, name) in _PARTS.items()
             if home == stage.name and timed in facts.began and timed in facts.seconds]
    moved = [_transfer(row) for row in transfers if _HOME.get(str(row["direction"])) == stage.name]
    return stage._replace(children=tuple(sorted([*parts, *moved], key=lambda span: span.start)))


def _transfer(row: Mapping[str, object]) -> Span:
    start, code = _number(row["at"]), int(_number(row["code"]))
    return Span(
        "transfer", start, start + max(0.0, _number(row["seconds"])),
        _known({"panda.transfer.id": str(row["transfer_id"]), "panda.transfer.lfn": str(row["lfn"]),
                "panda.transfer.direction": str(row["direction"]), "panda.transfer.tool": str(row["tool"]),
                "panda.transfer.bytes": int(_number(row["bytes"])), "panda.transfer.status": str(row["status"]),
                "panda.error.code": code}),
        error=str(row["detail"]) or f"error {code}" if code else "")


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _known(values: Mapping[str, Value | None]) -> dict[str, Value]:
    return {key: value for key, value in values.items() if value is not None and value != ""}
