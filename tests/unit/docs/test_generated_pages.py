"""The generated pages of the documentation say what the code does."""

from __future__ import annotations

import itertools
import re
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "docs"))

import generate_api  # noqa: E402
import generate_codes  # noqa: E402
import generate_lifecycle  # noqa: E402
import generate_settings  # noqa: E402

from pilot.common.errorcodes import ERROR_TABLE, error_code_translation_dictionary  # noqa: E402
from pilot.control.lifecycle import (  # noqa: E402
    ABORTS,
    Event,
    InvalidTransition,
    JobState,
    Stage,
    next_step,
)
from pilot.options import build_parser  # noqa: E402
from pilot.settings import all_keys  # noqa: E402


def rows_of(text):
    """Cells of every table row, heads and rulers left out."""
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines):
        ruler = re.fullmatch(r"\|(-+\|)+", line)
        head = number + 1 < len(lines) and re.fullmatch(r"\|(-+\|)+", lines[number + 1])
        if line.startswith("|") and not ruler and not head:
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def reachable_states():
    """Every state that a job can be in, found without the generator."""
    seen, waiting = set(), [JobState(has_inputs=True), JobState()]
    while waiting:
        state = waiting.pop()
        if state not in seen:
            seen.add(state)
            for event in Event:
                try:
                    waiting.append(next_step(state, event)[0])
                except InvalidTransition:
                    pass
    return sorted(seen, key=repr)


LIFECYCLE = rows_of(generate_lifecycle.page())


def fits(when, state):
    """Does the cell 'when' of a row hold for the state?"""
    facts = {"inputs": state.has_inputs, "failed": state.failed, "aborted": state.aborted is not None}
    for word in filter(None, when.split(", ")):
        negated = re.sub(r"^(no|not) ", "", word)
        if facts[negated] is not (negated == word):
            return False
    return True


@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.value)
def test_page_tells_for_every_state_what_next_step_does(event):
    for state in reachable_states():
        found = [row for row in LIFECYCLE if row[:2] == [state.stage.value, event.value] and fits(row[2], state)]
        try:
            after, step = next_step(state, event)
        except InvalidTransition:
            assert found == [], state
            continue
        assert len(found) == 1, state
        stage = after.stage.value if after.stage is not state.stage else ""
        assert found[0][3:5] == [stage, step.value], state
        if not state.failed:
            assert found[0][5] == ("yes" if after.failed else ""), state


def test_page_has_no_row_that_cannot_happen():
    states = reachable_states()
    for stage, event, when, *_ in LIFECYCLE:
        assert any(state.stage.value == stage and fits(when, state) for state in states), (stage, event, when)


def test_diagram_has_every_stage_and_every_regular_event():
    text = generate_lifecycle.diagram()
    order = [text.index(f"│ {stage.value:<11} │") for stage in Stage]
    assert order == sorted(order)
    for event in set(Event) - ABORTS:
        assert re.search(rf"\b{event.value}\b", text), event
    assert "stagein_failed ──► stageout" in text


def test_pages_of_codes_have_every_code():
    errors = {row[0]: row for row in rows_of(generate_codes.error_codes_page()) if len(row) == 8}
    assert set(errors) == {str(code) for code in ERROR_TABLE}
    assert errors["1305"][1:4] == ["`PAYLOADEXECUTIONFAILURE`", "Failed to execute payload", "8"]
    assert errors["1305"][5:] == ["user", "never", "`test_behaviour`"]
    ranks = {row[0] for row in rows_of(generate_codes.error_codes_page()) if len(row) == 2}
    assert ranks >= {str(entry.rank) for entry in ERROR_TABLE.values()}
    exits = {(row[0], row[1]) for row in rows_of(generate_codes.exit_codes_page())}
    for code, (shell, _) in error_code_translation_dictionary().items():
        assert (str(shell), str(code) if code > 0 else "") in exits


def test_signals_follow_the_published_table():
    rows = {row[0]: row for row in rows_of(generate_codes.signals_page())}
    published = {"SIGTERM": 1201, "SIGQUIT": 1202, "SIGSEGV": 1203, "SIGXCPU": 1204, "SIGUSR1": 1206, "SIGBUS": 1207}
    for name, code in published.items():
        number = int(getattr(signal, name))
        assert rows[name][1:4] == [str(number), str(code), str(128 + number)]
        assert name in rows[name][4]
    assert rows["SIGINT"][2:4] == ["1200", "130"]


def test_every_signal_that_ends_the_pilot_is_in_the_table():
    from pilot.control import shutdown

    rows = {row[0] for row in rows_of(generate_codes.signals_page())}
    assert rows == set(shutdown._ENDING_SIGNALS)


def test_every_setting_and_every_option_has_its_row():
    page = generate_settings.page()
    sections = dict(itertools.zip_longest(*[iter(re.split(r"^## `(\w+)`$", page, flags=re.MULTILINE)[1:])] * 2))
    for key, _ in all_keys():
        section, _, name = key.partition(".")
        assert f"| `{name}` |" in sections[section], key
    options = {name for row in rows_of(generate_settings.options_page()) for name in re.findall(r"`(-[^` ]*)`", row[0])}
    assert options == {name for action in build_parser()._actions for name in action.option_strings} - {"-h", "--help"}


def test_page_of_modules_names_the_interfaces_of_plugins():
    text = generate_api.page()
    for module in ("pilot.user.base", "pilot.copytool.base", "pilot.common.errorcodes", "sandbox.api"):
        assert f".. automodule:: {module}\n" in text
