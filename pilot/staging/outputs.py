"""Which outputs a payload really left behind, and whether they may be stored.

```
 declared            x.root                          must exist, not empty (unless allowNoOutput)
 pattern             regex|out_.*\\.root              every file of the work directory that matches
 hyper-parameters    x.root -> x.root_0, x.root_1     replace the declared name (job.is_hpo)
 extra               x.root -> x.root._1              stored as well; they stand for x.root when that is absent
```
Links: only those whose target lies in the work directory are outputs. A payload in a container could else point a link
at files that it cannot read itself (the pilot's proxy on the host) and have them published.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Iterable

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.memory import FILES as MONITOR_FILES
from pilot.info.queuedata import output_activities
from pilot.staging.attempts import Attempts
from pilot.staging.catalog import CATALOG
from pilot.staging.context import StagingContext
from pilot.staging.patterns import names_matching
from pilot.staging.transfer import any_traced
from pilot.util.safepath import UnsafePath, check_name, is_inside

logger = logging.getLogger(__name__)

REGEX_PREFIX = "regex|"
_GOOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-_]{1,250}")
_PILOT_FILES = frozenset(
    {CATALOG, "pilotlog.txt", "jobReport.json", "jobReport.json.original", "metadata.xml", "panda_secrets.json",
     *MONITOR_FILES}
)
_UTILITY_OUTPUT = re.compile(
    r"(?:preprocess|coprocess|postprocess|memorymonitor|benchmark|xcache_start|xcache_kill)_std(?:out|err)\.txt(?:-\d+)?")
"""Files with the output of what runs around the payload."""


class OutputProblem(PilotException):
    """An output is missing (1165), empty (1191) or badly named (1371)."""

    default_code = 1165


def prepare_outputs(job: Job, ctx: StagingContext) -> None:
    """Make ``job.outdata`` the list of files that are to be stored, each with GUID and size (bytes).

    Outputs that may be missing (``allowNoOutput``) and are, or are empty, leave the list.

    Raises:
        OutputProblem: after all outputs were looked at: 1165 names the missing ones, 1191 the empty ones; 1371 for a
            name that cannot be stored.
    """
    names = _file_names(job.workdir)
    failed: list[tuple[FileSpec, int, str]] = []
    found: list[FileSpec] = []
    problems: dict[int, list[str]] = {1371: [], 1165: [], 1191: []}
    for spec in job.outdata:
        if not spec.require_transfer():
            found.append(spec)
            continue
        specs = _expand(spec, job, names, ctx)
        optional = _may_be_missing(spec, job)
        if not specs and not optional:
            problems[1165].append(f"{spec.lfn} (no file matches)")
        for item in specs:
            code, text = _look_at(item, spec.workdir or job.workdir)
            if not code:
                item.guid = job.reported_guids.get(item.lfn) or item.guid or new_guid()
                found.append(item)
            elif optional and code in (1165, 1191):
                logger.info("output %s is %s, which the job allows (allowNoOutput)", item.lfn, text)
            else:
                problems[code].append(f"{item.lfn} ({text})")
                item.status, item.status_code = "failed", code
                failed.append((item, code, text))
    if failed:
        attempts = Attempts(Direction.OUT, ctx, log=False)
        tools = ctx.queue.copytools_for(output_activities(ctx.queue, job.is_analysis))
        traced = any_traced(tools, Direction.OUT, ctx)
        for item, code, text in failed[:_RECORDED]:
            problem = OutputProblem(f"{_WORDS[code]} {item.lfn} ({text})", code=code)
            attempts.untried(item, problem, traced=traced)
    for code, texts in problems.items():
        if texts:
            more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
            raise OutputProblem(_WORDS[code], ", ".join(texts[:_NAMED]) + more, code=code)
    job.outdata = _unique(found)


# Names in a diagnosis: it has room for no more, and a job may have 100,000 outputs.
_NAMED = 5
_RECORDED = 1000
_WORDS = {1371: "bad output name:", 1165: "missing output:", 1191: "empty output:"}


def _expand(spec: FileSpec, job: Job, names: list[str], ctx: StagingContext) -> list[FileSpec]:
    """Return the files that stand for one declared output."""
    pattern = pattern_of(spec)
    if pattern:
        taken = {other.lfn for other in [*job.indata, *job.outdata, *job.logdata]}
        taken |= _PILOT_FILES | set(ctx.payload_logs)
        free = [name for name in names if name not in taken and not _UTILITY_OUTPUT.fullmatch(name)]
        return [_sibling(spec, name) for name in names_matching(pattern, free)]
    if job.is_hpo:
        steps = _numbered(spec.lfn, names, r"_\d+")
        if steps:
            return [_sibling(spec, name) for name in steps]
    extra = [_sibling(spec, name) for name in _numbered(spec.lfn, names, r"\._\d+")]
    return extra if extra and spec.lfn not in names else [spec, *extra]


def pattern_of(spec: FileSpec) -> str:
    """Return the regular expression of an output declared as ``regex|<pattern>``, else an empty text."""
    given = getattr(spec, "pattern", "")
    if given:
        return str(given)
    return spec.lfn[len(REGEX_PREFIX) :] if spec.lfn.startswith(REGEX_PREFIX) else ""


def _numbered(lfn: str, names: list[str], suffix: str) -> list[str]:
    whole = re.compile(re.escape(lfn) + suffix)
    matching = [name for name in names if whole.fullmatch(name)]
    return sorted(matching, key=lambda name: int(name.rsplit("_", 1)[1]))


def _sibling(spec: FileSpec, name: str) -> FileSpec:
    """Same scope, dataset and endpoint, another name; a GUID of its own."""
    twin = replace(spec, lfn=name, guid="", filesize=0, checksum={}, inputddms=list(spec.inputddms), ddm_activity=[])
    if hasattr(twin, "pattern"):
        twin.pattern = ""
    return twin


def _look_at(spec: FileSpec, directory: Path) -> tuple[int, str]:
    """Return (0, "") and set the size of a good output, else (pilot code, what is wrong)."""
    try:
        check_name(spec.lfn)
        spec.lfn.encode("ascii")
    except UnsafePath as exc:
        return 1371, exc.detail
    except UnicodeEncodeError:
        return 1371, "not ASCII"
    if not _GOOD_NAME.fullmatch(spec.lfn):
        logger.warning("output name %r has characters that some storages do not take", spec.lfn)
    path = directory / spec.lfn
    try:
        info = os.stat(path)
    except OSError as exc:
        return 1165, "a dangling link" if path.is_symlink() else f"missing: {exc.strerror}"
    if path.is_symlink() and not is_inside(directory, path):
        return 1165, f"a link out of the work directory to {os.path.realpath(path)}, refused: move or copy the file"
    if not stat.S_ISREG(info.st_mode):
        return 1165, "a directory" if stat.S_ISDIR(info.st_mode) else "no regular file"
    if info.st_size == 0:
        return 1191, "empty"
    spec.filesize = info.st_size
    return 0, ""


def _may_be_missing(spec: FileSpec, job: Job) -> bool:
    return spec.may_be_missing or spec.lfn in job.allownooutput


def _file_names(directory: Path) -> list[str]:
    """Names of everything but directories, sorted; a work directory that is gone has no outputs."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except OSError as exc:
        logger.warning("cannot list the work directory %s: %s", directory, exc.strerror)
        return []


def _unique(specs: Iterable[FileSpec]) -> list[FileSpec]:
    """Two patterns may match one file: it is stored once."""
    return list({spec.lfn: spec for spec in reversed(list(specs))}.values())[::-1]


def new_guid() -> str:
    """Return a new GUID: upper case, with dashes."""
    import uuid

    return str(uuid.uuid4()).upper()
