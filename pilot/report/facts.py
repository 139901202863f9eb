"""What is known of one job, read from the PilotDB once and put into the order in which people ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from pilot.common.errors import rank_of
from pilot.store.pilotdb import ErrorRow, JobRow, PilotDB
from pilot.store.transferrows import TransferSum
from pilot.store.viewrows import Limit, Moving, Note, Sample

Step = tuple[float, str, str, str]
"""(epoch s, event, stage after it, detail)."""
_ABORTS = ("kill", "limit", "signal")


class Span(NamedTuple):
    """One stay of a job in a stage."""

    stage: str
    began: float
    """Epoch s."""
    ended: Optional[float]
    """Epoch s; None = it is still there."""

    def seconds(self, now: float) -> float:
        """Return its duration so far; a clock that was set back makes it 0."""
        return max(0.0, (now if self.ended is None else self.ended) - self.began)


class JobFacts(NamedTuple):
    """One job."""

    row: JobRow
    now: float
    """Epoch s of the look."""
    story: Sequence[Step]
    spans: Sequence[Span]
    errors: Sequence[ErrorRow]
    """The root cause first."""
    final: Optional[tuple[Mapping[str, object], Optional[float], str]]
    """Final report, epoch s of its acknowledgement, last trouble with it."""
    sums: Sequence[TransferSum]
    worst: Sequence[Mapping[str, object]]
    """Some transfers: failed ones, then the longest."""
    moving: Sequence[Moving]
    samples: Sequence[Sample]
    limits: Sequence[Limit]
    notes: Sequence[Note]

    @property
    def over(self) -> bool:
        """Whether the job has left its payload behind for good."""
        return self.row.state in ("done", "cleaning") or self.final is not None

    @property
    def result(self) -> str:
        """``finished``, ``failed``, ...: what was reported, else ``failing`` or ``running``."""
        if self.final is not None:
            return str(self.final[0].get("state") or "reported")
        return "failing" if self.errors else "running"


def gather(store: PilotDB, row: JobRow, now: float, *, transfers: int) -> JobFacts:
    """Read what the database knows of a job; ``transfers``: how many of them one by one, at most."""
    job_id = row.job_id
    story = store.story(job_id)
    succeeded = any(event == "payload_ok" for _, event, _, _ in story)
    errors = sorted(store.errors(job_id), key=lambda error: rank_of(error.code, error.rank, succeeded))
    return JobFacts(
        row, now, story, spans_of(row, story), errors, store.final_report(job_id), store.transfer_sums(job_id),
        store.worst_transfers(job_id, transfers), store.progress(job_id), store.samples(job_id), store.limits(job_id),
        store.notes(job_id))


def spans_of(row: JobRow, story: Sequence[Step]) -> list[Span]:
    """Return the stages that a job has gone through, the present one last."""
    spans: list[Span] = []
    stage, began = "received", row.granted
    for at, _event, after, _detail in story:
        if after != stage:
            spans.append(Span(stage, began, at))
            stage, began = after, at
    if stage != "done":
        spans.append(Span(stage, began, row.ended))
    return spans


def aborts_of(story: Sequence[Step]) -> list[Step]:
    """Return the steps that broke the job off."""
    return [step for step in story if step[1] in _ABORTS]


def use_of(limit: Limit, facts: JobFacts) -> Optional[float]:
    """Return how much of a limit the newest sample has used, in the limit's unit; None = not known."""
    if limit.name == "time":
        payload = [span for span in facts.spans if span.stage == "payload"]
        return payload[-1].seconds(facts.now) if payload else None
    if not facts.samples:
        return None
    sample = facts.samples[-1]
    if limit.name == "memory":
        return float(sample.pss or sample.rss)
    return float(sample.workdir) if limit.name == "workdir" and sample.workdir else None
