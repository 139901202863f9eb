"""What the server tells the pilot in the answer to an update: the words of ``command`` (server-api.md 6.10)."""

from __future__ import annotations

from typing import NamedTuple, Optional

DEBUG_PROGRAMS = ("tail", "ls", "ps", "gdb", "du")
"""First words of operator commands that may run (payload.md 12)."""


class Commands(NamedTuple):
    """One parsed ``command`` value. A command stays set on the server and is repeated: act on a change only."""

    kill: bool = False
    """``tobekilled``: kill the payload, 1144. In the answer to a final report it is no instruction."""
    softkill: bool = False
    """Event service: finish the running ranges, ask for no more, end."""
    debug: Optional[bool] = None
    """True: debug mode on; False: ``debugoff``; None: not mentioned, which after ``debug`` also means off."""
    debug_command: str = ""
    """Operator command whose output goes into ``stdout``; the first word is one of DEBUG_PROGRAMS."""
    nocleanup: bool = False
    already_done: bool = False
    """``alreadydone``: a final report was taken before; after a heartbeat: stop updating."""
    stale: bool = False
    """``badattemptnr`` (old servers): this attempt is over."""
    refused: tuple[str, ...] = ()
    """Operator commands that may not run, for one line in the log."""
    words: tuple[str, ...] = ()
    pilot_secrets: str = ""
    """JSON text that came beside the command: credentials for real-time logging."""


def split_words(value: object) -> tuple[str, ...]:
    """Return the comma separated words of ``value``, stripped; none for null, ``NULL`` and the empty string."""
    if not isinstance(value, str):
        return ()
    return tuple(word for word in (part.strip() for part in value.split(",")) if word and word.upper() != "NULL")


def parse_commands(value: object) -> Commands:
    """Parse a ``command`` value: a text, null, or absent.

    Words are compared whole, never searched for: ``debugoff`` contains ``debug`` and would be shadowed (incident l).
    A kill wins over everything that stands beside it. An operator's command with a comma inside (``ls a,b``) comes in
    pieces; a piece that is no word of the protocol belongs to the operator's command before it.
    """
    words = split_words(value)
    kill = "tobekilled" in words
    debug: bool | None = None
    if "debugoff" in words:
        debug = False
    elif "debug" in words:
        debug = True
    operator, refused = ("", ()) if kill else _operator_command(words)
    return Commands(
        kill=kill,
        softkill="softkill" in words,
        debug=True if operator and debug is None else debug,
        debug_command=operator,
        nocleanup="nocleanup" in words,
        already_done="alreadydone" in words,
        stale="badattemptnr" in words,
        refused=refused,
        words=words,
    )


_PROTOCOL_WORDS = frozenset({"tobekilled", "softkill", "debug", "debugoff", "nocleanup", "alreadydone", "badattemptnr"})


def _operator_command(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the operator's command that may run, and those that may not."""
    candidates: list[str] = []
    for word in words:
        if word in _PROTOCOL_WORDS:
            continue
        if candidates and word.split()[0] not in DEBUG_PROGRAMS:
            candidates[-1] += f",{word}"
        else:
            candidates.append(word)
    allowed = [text for text in candidates if _may_run(text)]
    return (allowed[0] if allowed else ""), tuple(text for text in candidates if text not in allowed)


def _may_run(text: str) -> bool:
    return text.split()[0] in DEBUG_PROGRAMS and not any(mark in text for mark in (";", "&#59", "\n"))
