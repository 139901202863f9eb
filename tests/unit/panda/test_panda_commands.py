"""Commands in the server's answers are words, compared whole."""

from __future__ import annotations

from typing import Any

import pytest

from pilot.panda.commands import Commands, parse_commands


@pytest.mark.parametrize("value", ["NULL", "null", None, "", " , ", 5, {"a": 1}])
def test_nothing_to_do(value: Any) -> None:
    assert parse_commands(value) == Commands()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tobekilled", {"kill": True}),
        ("debug,tobekilled", {"kill": True, "debug": True}),
        ("softkill", {"softkill": True}),
        ("debug", {"debug": True}),
        ("debugoff", {"debug": False}),
        ("debug,debugoff", {"debug": False}),
        ("debugoff,debug", {"debug": False}),
        ("nocleanup", {"nocleanup": True}),
        ("alreadydone", {"already_done": True}),
        ("badattemptnr", {"stale": True}),
        ("ls -l", {"debug": True, "debug_command": "ls -l"}),
        ("debug,ls -l", {"debug": True, "debug_command": "ls -l"}),
        ("ls -l,debug", {"debug": True, "debug_command": "ls -l"}),
        ("tail -20 payload.stdout", {"debug": True, "debug_command": "tail -20 payload.stdout"}),
        ("debug,tobekilled,ls -l", {"kill": True, "debug": True}),
        ("softkill,debug", {"softkill": True, "debug": True}),
        ("ls a,b", {"debug": True, "debug_command": "ls a,b"}),
        ("debug, ps aux", {"debug": True, "debug_command": "ps aux"}),
    ],
)
def test_known_words(value: str, expected: dict[str, Any]) -> None:
    commands = parse_commands(value)
    for name in ("kill", "softkill", "debug", "debug_command", "nocleanup", "already_done", "stale"):
        assert getattr(commands, name) == expected.get(name, Commands._field_defaults[name]), name
    assert commands.refused == ()


@pytest.mark.parametrize("value", ["rm -rf /", "ls; rm x", "tail &#59 x", "reboot", "ls\nrm x", "tobekilledx"])
def test_other_programs_and_chained_ones_are_refused(value: str) -> None:
    commands = parse_commands(value)
    assert (
        commands.refused == (value,) and commands.debug_command == "" and not commands.kill and commands.debug is None
    )
