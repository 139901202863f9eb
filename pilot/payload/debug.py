"""Answers the debug commands of operators: tail, ls, ps, du, and ``debug`` itself; confined, bounded, without a shell.

The command comes from a stranger (job/set_command on the server), its output goes to the server's job table. So: no
shell metacharacters, only known options, paths only inside the directory, nothing that holds a secret, 30 s, 2,048
bytes.
"""

from __future__ import annotations

import fnmatch
import heapq
import logging
import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pilot.common.exception import PilotException
from pilot.payload.process import Supervisor
from pilot.payload.textfiles import cut_bytes, is_binary, printable, read_head, read_tail
from pilot.util.redact import redact
from pilot.util.safepath import UnsafePath, inside, is_inside

logger = logging.getLogger(__name__)

OUTPUT_LIMIT = 2048
"""Bytes of the server's column; a longer text makes its insert fail (payload.md 12)."""

TIME_LIMIT = 30.0
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
    "queuedata.json", "heartbeat.json", "PoolFileCatalog.xml",
})
_SECRET_NAME = re.compile(
    r"proxy|x509|token|secret|credential|password|\.pem$|\.key$|^curl_.*\.config$|id_rsa", re.IGNORECASE
)

# Options that neither read nor write a file of their own choice. `ps` without 'e' in BSD style: it prints environments.
_LS_OPTION = re.compile(r"-[1aAdFgGhiklnopqrRsStuUcXZ]+")
_DU_OPTION = re.compile(r"-[abchklmsSx0]+|-d\d{1,3}|--max-depth=\d{1,3}")
_PS_OPTION = re.compile(r"-[AefFlLjyHNTdw]+|a?u?x?f?w{0,2}|-aux|--forest|--sort=[a-z%,+-]+")
_PS_VALUE_OPTIONS = frozenset({"-o", "-eo", "-u", "-U", "-p", "-C", "-g", "-s", "-t", "--ppid", "--sort"})
_PS_VALUE = re.compile(r"[\w.,:=%+@-]+")


class DebugCommandRefused(PilotException):
    """The debug command is none that may be run; never an error of the job."""

    default_code = 1008


def debug_output(
    command: str, workdir: Path, supervisor: Supervisor, environ: Mapping[str, str], *, time_limit: float = TIME_LIMIT
) -> str:
    """Return the text for the server's ``stdout`` field: at most 2,048 bytes of UTF-8, secrets masked.

    Args:
        command: ``debug`` (tail of the newest text file) or a command of the operator.
        workdir: everything happens inside this directory.
        supervisor: starts ``ls``, ``ps`` and ``du``.
        environ: environment for them.
        time_limit: s until the command is ended; what it printed is returned.

    Raises:
        DebugCommandRefused: unknown command, forbidden option, character or path.
    """
    words = split_command(command)
    if words[0] == "debug":
        text = tail_of_newest(workdir)
    elif words[0] == "tail":
        text = _tail(words[1:], workdir)
    else:
        argv = _checked_argv(words, workdir)
        text = printable(_run(argv, workdir, supervisor, environ, time_limit))
    return cut_bytes(redact(text), OUTPUT_LIMIT, keep_end=True)


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
    if not words or words[0] not in ("debug", "tail", "ls", "ps", "du"):
        raise DebugCommandRefused(f"debug command refused, only tail, ls, ps and du are possible: {command[:100]!r}")
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
        raise DebugCommandRefused(f"debug command refused, path outside of the work directory: {word!r}")
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
    return [name for name, path in zip(names, paths) if is_inside(workdir, path)]


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


def _run(
    argv: list[str], workdir: Path, supervisor: Supervisor, environ: Mapping[str, str], time_limit: float
) -> bytes:
    """Run a program and return the end of its output; it is ended when the time is up."""
    reading, writing = os.pipe()
    try:
        try:
            child = supervisor.spawn(argv, cwd=workdir, env=environ, stdout=writing, stderr=subprocess.STDOUT)
        except OSError as error:
            return f"{argv[0]}: {error.strerror}".encode()
        finally:
            os.close(writing)
        output = _read_end(reading, time.monotonic() + time_limit)
        if child.wait(0.5) is None:
            child.kill_tree(0.0)
            output += f"\n{argv[0]}: ended after {time_limit:.0f} s".encode()
        return output
    finally:
        os.close(reading)


def _read_end(handle: int, until: float) -> bytes:
    """Read a pipe to its end or until the time is up, and return the last bytes."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    output = b""
    while True:
        remaining = until - time.monotonic()
        if remaining <= 0 or not poller.poll(remaining * 1000):
            return output
        chunk = os.read(handle, 65536)
        if not chunk:
            return output
        output = (output + chunk)[-4 * OUTPUT_LIMIT :]
