"""Shows findings: a table of 80 columns for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence

from pilot.workflow.checks.base import FAIL, OK, SKIP, WARN, Finding

_COLOURS: Mapping[str, str] = {OK: "32", WARN: "33", FAIL: "31;1", SKIP: "2"}
_NARROW, _WIDE = 60, 120
_NAME = 14


def table(findings: Sequence[Finding], *, width: int = 80, colours: bool = False) -> str:
    """Return the table; lines are never longer than ``width`` but for a single long word."""
    lines = []
    indent = " " * (5 + _NAME + 1)
    for finding in findings:
        mark = f"{finding.status:<4}"
        if colours:
            mark = f"\033[{_COLOURS[finding.status]}m{mark}\033[0m"
        text = _wrapped(finding.found, width - len(indent))
        name = _clean(finding.name)
        if len(name) > _NAME:  # a long name has a line of its own
            lines.append(f"{mark} {name}")
            lines += [f"{indent}{line}" for line in text]
        else:
            lines.append(f"{mark} {name:<{_NAME}} {text[0] if text else ''}".rstrip())
            lines += [f"{indent}{line}" for line in text[1:]]
        if finding.cure:
            cure = _wrapped(finding.cure, width - len(indent) - 4)
            lines += [f"{indent}{'--> ' if number == 0 else '    '}{line}" for number, line in enumerate(cure)]
    return "\n".join([*lines, "", _sum(findings)])


def as_json(findings: Sequence[Finding], exit_code: int) -> str:
    """Return one JSON object: ``exit_code`` and ``checks``, each with name, status, found, cure, code."""
    rows = [{"name": item.name, "status": item.status, "found": item.found, "cure": item.cure, "code": item.code}
            for item in findings]
    return json.dumps({"exit_code": exit_code, "checks": rows}, indent=1)


def terminal_width() -> int:
    """Return how wide the table may be: 80 columns where there is no terminal."""
    return max(_NARROW, min(_WIDE, shutil.get_terminal_size((80, 24)).columns))


def _sum(findings: Sequence[Finding]) -> str:
    count = {status: sum(finding.status == status for finding in findings) for status in (OK, WARN, FAIL)}
    words = [f"{count[OK]} ok", *(f"{count[status]} {word}" for status, word in ((WARN, "to look at"), (FAIL, "FAILED"))
                                  if count[status])]
    return ", ".join(words)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(_clean(text), max(20, width), break_long_words=False, break_on_hyphens=False) or [""]


def _clean(text: str) -> str:
    """Return the text on one line, without control characters: it may come from a file name or a server."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
