"""Makes the state diagram and the table of a job's road by asking ``pilot.control.lifecycle.next_step`` for everything.

Each state that can be reached is tried with each event, so the page cannot say what the code does not do.
"""

from __future__ import annotations

from typing import NamedTuple

from pilot.control.lifecycle import Event, InvalidTransition, JobState, Stage, Step, next_step

_INTRODUCTION = """# Life cycle of a job

Which stage comes next is decided in one pure function, `pilot.control.lifecycle.next_step`. This page is made by asking
it for every state that can be reached, with every event.

## The road

Stages in boxes, events on the arrows, for a job that has not failed before. An event that passes over stages stands
beside its box. Aborts (kill by the server, a limit, a signal) are no arrows: before `stageout` they break off the
running stage, whose end then leads to `stageout`, with the log alone; the road stays the same.

"""

_TABLE = """
## Every stage and event

An empty 'when' means always; 'failed' and 'aborted' speak of the time before the event. What is not listed cannot
happen (`InvalidTransition`).

| stage | event | when | next stage | step | makes it fail |
|---|---|---|---|---|---|
"""

class Transition(NamedTuple):
    """One answer of ``next_step``."""

    before: JobState
    event: Event
    after: JobState
    step: Step


def transitions() -> list[Transition]:
    """Return all transitions of all states that can be reached from a received job, in a stable order."""
    found: list[Transition] = []
    seen: set[JobState] = set()
    waiting = [JobState(has_inputs=True), JobState(has_inputs=False)]
    while waiting:
        state = waiting.pop(0)
        if state in seen:
            continue
        seen.add(state)
        for event in Event:
            try:
                after, step = next_step(state, event)
            except InvalidTransition:
                continue
            found.append(Transition(state, event, after, step))
            waiting.append(after)
    order = {item: number for kind in (Stage, Event) for number, item in enumerate(kind)}
    return sorted(found, key=lambda item: (
        order[item.before.stage], not item.before.has_inputs, item.before.failed,
        -1 if item.before.aborted is None else order[item.before.aborted], order[item.event]))


def edges() -> dict[tuple[Stage, Stage], list[Event]]:
    """Return which events lead a job that has not failed from stage to stage."""
    found: dict[tuple[Stage, Stage], list[Event]] = {}
    for item in transitions():
        if not item.before.failed and item.before.stage is not item.after.stage:
            events = found.setdefault((item.before.stage, item.after.stage), [])
            if item.event not in events:
                events.append(item.event)
    return found


def diagram() -> str:
    """Return the stages from top to bottom; where an edge passes over a stage, its target stands beside the box."""
    stages = list(Stage)
    known = edges()
    lines: list[str] = []
    for index, stage in enumerate(stages):
        last = index + 1 == len(stages)
        jumps = [f"{_names(events)} ──► {target.value}" for (source, target), events in known.items()
                 if source is stage and (last or target is not stages[index + 1])]
        side = "─┬─ " if len(jumps) > 1 else "─── "
        lines.append(f"┌{'─' * 13}┐")
        lines.append(f"│ {stage.value:<11} │{side + jumps[0] if jumps else ''}")
        lines.append(f"└{'─' * 13}┘" if last else f"└{'─' * 6}┬{'─' * 6}┘")
        for number, text in enumerate(jumps[1:], 2):
            lines[-1] = f"{lines[-1]} {'└' if number == len(jumps) else '├'}─ {text}"
        if not last:
            lines += [f"       │ {_names(known.get((stage, stages[index + 1]), []))}", "       ▼"]
    return "\n".join(lines)


def _names(events: list[Event]) -> str:
    return ", ".join(event.value for event in events)


class Row(NamedTuple):
    """A line of the table: ``when`` holds the facts that the outcome depends on."""

    stage: Stage
    event: Event
    when: tuple[tuple[str, bool], ...]
    after: Stage
    step: Step
    fails: bool


_FACTS = ("inputs", "failed", "aborted")


def facts_of(state: JobState) -> dict[str, bool]:
    """Return what a row may depend on."""
    return {"inputs": state.has_inputs, "failed": state.failed, "aborted": state.aborted is not None}


def rows() -> list[Row]:
    """Return the transitions, put together where the outcome is the same."""
    found: list[Row] = []
    groups: dict[tuple[Stage, Event], list[Transition]] = {}
    for item in transitions():
        groups.setdefault((item.before.stage, item.event), []).append(item)
    for (stage, event), items in groups.items():
        kept = list(_FACTS)
        for fact in reversed(_FACTS):
            if _decides(items, [name for name in kept if name != fact]):
                kept.remove(fact)
        for item in items:
            when = tuple((name, facts_of(item.before)[name]) for name in kept)
            fails = any(other.after.failed and not other.before.failed for other in items)
            row = Row(stage, event, when, item.after.stage, item.step, fails and ("failed", True) not in when)
            if row not in found:
                found.append(row)
    return found


def _decides(items: list[Transition], names: list[str]) -> bool:
    """True when the facts ``names`` alone decide what comes out."""
    outcomes: dict[tuple[bool, ...], tuple[Stage, Step]] = {}
    return all(
        outcomes.setdefault(tuple(facts_of(item.before)[name] for name in names), (item.after.stage, item.step))
        == (item.after.stage, item.step) for item in items)


def table() -> str:
    """Return the rows as Markdown."""
    lines = []
    for row in rows():
        when = ", ".join(name if value else f"{'no' if name == 'inputs' else 'not'} {name}" for name, value in row.when)
        after = row.after.value if row.after is not row.stage else ""
        lines.append(f"| {row.stage.value} | {row.event.value} | {when} | {after} | {row.step.value} | "
                     f"{'yes' if row.fails else ''} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page."""
    return f"{_INTRODUCTION}```text\n{diagram()}\n```\n{_TABLE}{table()}"
