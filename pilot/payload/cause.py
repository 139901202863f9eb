"""Finds the lines in a payload's output that say why it failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pilot.info.diagnosis import Cause
from pilot.payload.textfiles import printable, read_tail

_WINDOW = 64 * 1024
_RECENT = 40
"""How many of the last meaningful lines are looked at for one that names an error."""

# Lines that never say why: shell traces, output of `time`, separators, progress, what runs after the failure.
_NOISE = re.compile(
    r"^(?:\++ .*|(?:real|user|sys)\s+\d+m[\d.,]+s|[\W_]*|[\d.]+%.*|(?:exit|return)(?: code)?[ :=]*\d*"
    r"|Command exited with non-zero status.*|srun: .*Job step aborted.*)$"
)
_STRONG = re.compile(
    r"fatal|critical|error|exception|cannot|can't|could not|couldn't|fail|denied|no such|not found|abort|segmentation"
    r"|unable|invalid|killed|terminated|assert|undefined|unrecogni[sz]ed|missing|corrupt|refused|timed out|time-?out"
    r"|no space|quota|out of memory|bad_alloc|core dumped|not permitted",
    re.IGNORECASE,
)
# A level that is lower than an error, at the start of a line or behind a time stamp.
_WEAK_LEVEL = re.compile(
    r"^(?:[\[(]?[\d:.,/TZ\- ]*[\])]?\s*)?[\[(]?(?:INFO|DEBUG|VERBOSE|TRACE|WARN(?:ING)?)\b", re.IGNORECASE
)
_HOLE = re.compile(rb"\0{4,}")
"""What a sparse file has in the place of text: it was cut while somebody wrote to it."""
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_STDOUT_LEVELS = ("CRITICAL", "FATAL", "ERROR")
_LEVEL_WORD = {word: re.compile(rf"\b{word}\b") for word in _STDOUT_LEVELS}


def meaningful_lines(text: str) -> list[str]:
    """Return the lines that may say something: tracebacks become their last line, noise and repetitions go."""
    result: list[str] = []
    in_traceback = False
    for raw in text.split("\n"):
        line = raw.rstrip()
        if line.lstrip().startswith(_TRACEBACK):
            in_traceback = True
            continue
        if in_traceback:
            if not line or line[0] in " \t|":
                continue
            in_traceback = False
        line = " ".join(line.split())
        if _NOISE.match(line) or line.startswith(_CHAINED) or _mostly_unprintable(line):
            continue
        if line in result[-20:]:
            result.remove(line)
        result.append(line)
    return result


def find_cause(stdout: Path, stderr: Path) -> str:
    """Return the text of ``cause_of``."""
    return cause_of(stdout, stderr).text


def cause_of(stdout: Path, stderr: Path) -> Cause:
    """Return one or two lines that name the cause, joined by ``; ``, and whose they are; empty when the payload has
    said nothing.

    First the last lines of stderr that speak of an error, then CRITICAL, FATAL, ERROR lines of stdout, then the last
    line of stderr, then that of stdout.
    """
    in_stderr, in_stdout = f"end of {stderr.name}", f"end of {stdout.name}"
    errors = _lines_of(stderr)
    strong = _last_strong(errors)
    if strong:
        return Cause("; ".join(strong), in_stderr)
    output = _lines_of(stdout)
    for word in _STDOUT_LEVELS:
        found = [line for line in output if _LEVEL_WORD[word].search(line)]
        if found:
            return Cause(found[0] if word == "CRITICAL" else found[-1], in_stdout)
    if errors:
        return Cause(errors[-1], in_stderr)
    strong = _last_strong(output)
    if strong:
        return Cause(strong[-1], in_stdout)
    return Cause(output[-1], in_stdout) if output else Cause("")


def shorten(text: str, limit: int) -> str:
    """Return ``text`` with the middle cut out when it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    if limit < 8:
        return text[:limit]
    head = (limit - 5) // 2
    return f"{text[:head]} ... {text[-(limit - 5 - head):]}"


def _lines_of(path: Path) -> list[str]:
    raw = read_tail(path, _WINDOW)
    if len(raw) == _WINDOW:
        # The first line of the window is the rest of one, unless it is all there is.
        rest = raw[raw.find(b"\n") + 1 :]
        raw = rest if rest.strip() else raw
    return meaningful_lines(printable(_HOLE.sub(b"\n", raw)))


def _last_strong(lines: Sequence[str]) -> list[str]:
    """Return the last two lines that speak of an error, the older first."""
    recent = [line for line in lines[-_RECENT:] if not _WEAK_LEVEL.match(line)]
    return [line for line in recent if _STRONG.search(line)][-2:]


def _mostly_unprintable(line: str) -> bool:
    """True for lines of binary output."""
    return line.count("?") >= 2 and line.count("?") * 4 > len(line)
