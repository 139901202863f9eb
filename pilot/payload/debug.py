"""Answers the debug commands of operators: tail, ls, ps, du, gdb, ``debug``; confined, bounded, without a shell.

The command comes from a stranger (job/set_command on the server), its output goes to the server's job table. So: no
shell metacharacters, only known options, paths only inside the directory, nothing that holds a secret, 30 s (gdb: 300),
2,048 bytes.
"""

from __future__ import annotations

import fnmatch
import heapq
import logging
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from pilot.payload.debugplace import OUTPUT_LIMIT, DebugAnswer, DebugCommandRefused, DebugPlace, run_bounded
from pilot.payload.textfiles import cut_bytes, is_binary, printable, read_head, read_tail
from pilot.util.redact import redact
from pilot.util.safepath import UnsafePath, inside, is_inside

logger = logging.getLogger(__name__)

_PROGRAMS = ("debug", "tail", "ls", "ps", "du", "gdb")
_LINES = 10
_MAX_LINES = 1000
_NEWEST = 20
_MAX_ENTRIES = 200_000

_METACHARACTERS = re.compile(r"[;&|<>`$(){}\\\n\r\0!]")

# Files of the pilot itself, which say nothing about the payload (payload.md 12).
_PILOT_FILES = frozenset({
    "pilotlog.txt", "stageinlog.txt", "stageoutlog.txt", "pilot_timing.json", "remotefileverification_dictionary.json",
    "remotefileslog.txt", "base_trace_report.json", "container_script.sh", "my_release_setup.sh", "stagein_status.json",
    "stagein_replicas.json", "eventLoopHeartBeat.txt", "memory_monitor_output.txt",
    "memory_monitor_summary.json_snapshot", "pilot_heartbeat.json", "panda_token", "panda_secrets.json",
    "queuedata.json", "heartbeat.json", "PoolFileCatalog.xml", "gdb_output.txt",
})
_SECRET_NAME = re.compile(
    r"proxy|x509|token|secret|credential|password|\.pem$|\.key$|^curl_.*\.config$|id_rsa"
    r"|-(?:unified|payload)$", re.IGNORECASE
)

# Options that neither read nor write a file of their own choice. `ps` without 'e' in BSD style: it prints environments.
_LS_OPTION = re.compile(r"-[1aAdFgGhiklnopqrRsStuUcXZ]+")
_DU_OPTION = re.compile(r"-[abchklmsSx0]+|-d\d{1,3}|--max-depth=\d{1,3}")
_PS_OPTION = re.compile(r"-[AefFlLjyHNTdw]+|a?u?x?f?w{0,2}|-aux|--forest|--sort=[a-z%,+-]+")
_PS_VALUE_OPTIONS = frozenset({"-o", "-eo", "-u", "-U", "-p", "-C", "-g", "-s", "-t", "--ppid", "--sort"})
_PS_VALUE = re.compile(r"[\w.,:=%+@-]+")


def debug_answer(command: str, place: DebugPlace) -> DebugAnswer:
    """Carry out ``debug`` (tail of the newest text file) or a command of the operator.

    Returns:
        The text for the server's ``stdout`` field: at most 2,048 bytes of UTF-8, the last ones (of gdb's output the
        first: there are the innermost frames), secrets masked.

    Raises:
        DebugCommandRefused: unknown command, forbidden option, character or path.
        OSError: a program cannot be started.
    """
    words = split_command(command)
    core = None
    if words[0] == "debug":
        text = tail_of_newest(place.workdir)
    elif words[0] == "tail":
        text = _tail(words[1:], place.workdir)
    elif words[0] == "gdb":
        from pilot.payload.gdb import run_gdb

        text, core = run_gdb(words[1:], place)
    else:
        text = _run(_checked_argv(words, place.workdir), place)
    return DebugAnswer(cut_bytes(redact(text), OUTPUT_LIMIT, keep_end=words[0] != "gdb"), core)


def split_command(command: str) -> list[str]:
    """Return the words of a debug command.

    Raises:
        DebugCommandRefused: shell metacharacters (also as HTML entities), unbalanced quotes, or an unknown command.
    """
    if _METACHARACTERS.search(command) or "&#" in command:
        raise DebugCommandRefused(f"debug command refused, shell characters in it: {command[:100]!r}")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise DebugCommandRefused(f"debug command refused, {error}: {command[:100]!r}") from None
    if not words or words[0] not in _PROGRAMS:
        raise DebugCommandRefused(
            f"debug command refused, only tail, ls, ps, du and gdb are possible: {command[:100]!r}")
    return words


def tail_of_newest(directory: Path, lines: int = _LINES) -> str:
    """Return name and last lines of the text file below ``directory`` that was written last, or payload.stdout."""
    newest = heapq.nlargest(_NEWEST, _candidates(directory))
    for _, path in newest:
        head = read_head(Path(path), 1024)
        if head and not is_binary(head):
            return _tail_text(Path(path), directory, lines)
    return _tail_text(directory / "payload.stdout", directory, lines)


def _candidates(directory: Path) -> Iterator[tuple[float, str]]:
    """Yield (modification time, path) of the files of the payload; links are not followed."""
    waiting = [str(directory)]
    budget = _MAX_ENTRIES
    while waiting and budget > 0:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                budget -= 1
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != "pilot":
                            waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and not _is_uninteresting(entry.name):
                        yield entry.stat(follow_symlinks=False).st_mtime, entry.path
                except OSError:
                    continue


def _is_uninteresting(name: str) -> bool:
    return name in _PILOT_FILES or "prmon" in name or _SECRET_NAME.search(name) is not None


def _tail_text(path: Path, base: Path, lines: int) -> str:
    """Return the name below ``base``, a line end, and the last lines."""
    text = printable(read_tail(path, 2 * OUTPUT_LIMIT + 200 * lines)).rstrip("\n")
    last = "\n".join(text.split("\n")[-lines:])
    return f"{path.relative_to(base)}\n{last}"


def _tail(words: list[str], workdir: Path) -> str:
    """Carry out ``tail [-n N | -N] <pattern>``: the newest match of the pattern below the work directory."""
    lines = _LINES
    names: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        match = re.fullmatch(r"(?:-n|--lines=|-)(\d{1,6})", word)
        if match:
            lines = int(match.group(1))
        elif word == "-n" and position + 1 < len(words) and words[position + 1].isdigit():
            position += 1
            lines = int(words[position])
        elif word.startswith("-"):
            if word not in ("-q", "-v", "-f", "-F"):
                raise DebugCommandRefused(f"debug command refused, option of tail: {word}")
        else:
            names.append(word)
        position += 1
    if len(names) != 1:
        raise DebugCommandRefused("debug command refused, tail needs one file name")
    lines = max(1, min(lines, _MAX_LINES))
    return _tail_text(_newest_match(names[0], workdir), workdir, lines)


def _newest_match(pattern: str, workdir: Path) -> Path:
    """Return the newest regular file whose path or name matches; the name may have wild cards."""
    relative = _relative(pattern)
    best: tuple[float, Path] | None = None
    for root, directories, files in os.walk(workdir):
        directories.sort()
        for name in files:
            path = Path(root, name)
            below = str(path.relative_to(workdir))
            if not (fnmatch.fnmatchcase(below, relative) or fnmatch.fnmatchcase(name, relative)):
                continue
            if _SECRET_NAME.search(name) or not is_inside(workdir, path):
                continue
            try:
                when = path.stat().st_mtime
            except OSError:
                continue
            if best is None or when > best[0]:
                best = (when, path)
    if best is None:
        raise DebugCommandRefused(f"no file matches {pattern!r}")
    return best[1]


def _relative(word: str) -> str:
    """Return a path of the command without ``./``; absolute ones and ``..`` are refused."""
    if word.startswith(("/", "~")) or ".." in word.split("/"):
        raise DebugCommandRefused(f"debug command refused, path outside of the job's directory: {word!r}")
    while word.startswith("./"):
        word = word[2:]
    return word or "."


def _checked_argv(words: list[str], workdir: Path) -> list[str]:
    """Return the argument list of ls, du or ps with nothing in it that was not checked."""
    if words[0] == "ps":
        return ["ps", *_ps_arguments(words[1:])]
    allowed = _LS_OPTION if words[0] == "ls" else _DU_OPTION
    options, paths = [], []
    for word in words[1:]:
        if word.startswith("-"):
            if not allowed.fullmatch(word):
                raise DebugCommandRefused(f"debug command refused, option of {words[0]}: {word}")
            options.append(word)
        else:
            paths.extend(_expand(_relative(word), workdir))
    return [words[0], *options, "--", *(paths or ["."])]


def _expand(word: str, workdir: Path) -> list[str]:
    """Return the paths that a word stands for, each inside the work directory also after following links."""
    if word == ".":
        return [word]
    names = [word]
    if any(char in word for char in "*?["):
        from glob import escape, glob

        names = [os.path.relpath(name, workdir) for name in sorted(glob(f"{escape(str(workdir))}/{word}"))] or [word]
    try:
        paths = [inside(workdir, name.rstrip("/")) for name in names]
    except UnsafePath as error:
        raise DebugCommandRefused(f"debug command refused, {error.detail}") from None
    found = [name for name, path in zip(names, paths) if is_inside(workdir, path)]
    if not found:
        raise DebugCommandRefused(f"debug command refused, a link out of the job's directory: {word!r}")
    return found


def _ps_arguments(words: list[str]) -> list[str]:
    """Check the options of ps; environments of processes, which hold secrets, cannot be shown."""
    result: list[str] = []
    value_follows = False
    for word in words:
        if "environ" in word.lower():
            raise DebugCommandRefused("debug command refused, ps shows no environment")
        if value_follows:
            if not _PS_VALUE.fullmatch(word):
                raise DebugCommandRefused(f"debug command refused, value of ps: {word}")
            value_follows = False
        elif word in _PS_VALUE_OPTIONS:
            value_follows = True
        elif not _PS_OPTION.fullmatch(word):
            raise DebugCommandRefused(f"debug command refused, option of ps: {word}")
        result.append("aux" if word == "-aux" else word)
    return result


def _run(argv: list[str], place: DebugPlace) -> str:
    """Run ls, ps or du and return what it prints."""
    try:
        output = run_bounded(argv, place, place.time_limit)
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    text = printable(output.raw)
    return f"{text}\n{argv[0]}: ended after {place.time_limit:.0f} s" if output.timed_out else text
