"""Pieces of a payload's start: the words that run a transformation, its environment, its lists of inputs."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import FileHandlingFailure, PilotException
from pilot.info.job import Job
from pilot.info.remoteinputs import replace_lines
from pilot.payload.textfiles import read_head
from pilot.payload.transform import Fetch, get_transform, make_executable
from pilot.util.safepath import UnsafePath, inside

if TYPE_CHECKING:
    from pilot.payload.child import Child
    from pilot.payload.process import Supervisor

logger = logging.getLogger(__name__)

# The pilot's identity towards the server is none of the payload's business (server-api.md 3.2).
PRIVATE_VARIABLES = (
    "OIDC_AUTH_TOKEN",
    "OIDC_AUTH_ORIGIN",
    "PANDA_AUTH_TOKEN",
    "PANDA_AUTH_ORIGIN",
    "PANDA_AUTH_TOKEN_KEY",
    "OIDC_REFRESHED_AUTH_TOKEN",
)
_EMPTY = ("", "NULL", "null", "None")


def shell_argv(line: str) -> list[str]:
    """Return the argument list that runs a shell line, as the field expects it: ``/bin/bash -c <line>``."""
    return ["/bin/bash", "-c", line]


def start_shell(
    supervisor: Supervisor, line: str, workdir: Path, environ: Mapping[str, str], outputs: tuple[str, str], *,
    append: bool = False, grouped: bool = False,
) -> Child:
    """Start a shell line with its two output files in ``workdir``.

    Args:
        supervisor: starts it.
        line: for bash.
        workdir: its directory.
        environ: its whole environment.
        outputs: names of the files for standard output and standard error.
        append: to what the files have, else they are emptied.
        grouped: in a control group of its own, where there can be one.

    Raises:
        OSError: a file cannot be made, or the process.
    """
    descriptors: list[int] = []
    try:
        for name in outputs:
            # never through a link: an input of that name is one, to the site's own copy of the file
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            flags |= os.O_APPEND if append else os.O_TRUNC
            descriptors.append(os.open(workdir / name, flags, 0o644))
        return supervisor.spawn(
            shell_argv(line), cwd=workdir, env=environ, stdout=descriptors[0], stderr=descriptors[1],
            grouped=grouped)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def write_input_lists(job: Job, workdir: Path, remote: Mapping[str, str]) -> str:
    """Write the lists of inputs of ``writeToFile`` into the work directory (job-definition.md 5, step 7).

    Args:
        job: the job.
        workdir: of the job.
        remote: LFN -> TURL of inputs that stay remote.

    Returns:
        The job parameters, in which the lists have their names.

    Raises:
        FileHandlingFailure: a list cannot be written: 1098 for a full disk, else 1303.
    """
    if not job.writetofile:
        return job.jobparams
    from pilot.info.writetofile import apply_write_to_file, parse_write_to_file

    text, lists = apply_write_to_file(job.jobparams, parse_write_to_file(job.writetofile))
    for name, content in lists.items():
        try:
            (workdir / name).write_text(replace_lines(content, remote), encoding="utf-8")
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise FileHandlingFailure(
                f"the list of inputs {name} (writeToFile) cannot be written: {error.strerror}",
                code=ErrorCodes.NOLOCALSPACE if full else ErrorCodes.FILEHANDLINGFAILURE,
            ) from error
        logger.info("job %s: list of inputs %s written (writeToFile)", job.jobid, name)
    return text


def resolve_transformation(
    job: Job,
    workdir: Path,
    bases: Sequence[str],
    fetch: Fetch,
    *,
    environ: Mapping[str, str],
) -> str:
    """Return the shell words that start the transformation (job-definition.md 6.2), first match:

    1. ``http(s)://``: downloaded, ``./<name>``
    2. a file in the work directory: ``./<name>`` (``python3 <name>`` for a ``.py`` that is not executable)
    3. an absolute path that is executable, or a bare name found in PATH: as it stands
    4. ``<homepackage>/<name>`` in the work directory: ``python3`` for ``.py``
    5. a command with arguments whose first word is found by 2 or 3: shell text

    The name comes from the server: it is quoted unless it is a command line of form 5.

    Raises:
        PilotException: 1346 TRANSFORMNOTFOUND; 1149, 1143 see ``get_transform``.
    """
    text = job.transformation.strip()
    if text.startswith(("http://", "https://")):
        name = get_transform(text, workdir, bases, fetch, environ=environ, token=job.cancel)
        return _local(name)
    if text in _EMPTY and job.noexecstrcnv:
        return ""  # the job parameters are the whole command
    if text in _EMPTY:
        raise _not_found("the job has no transformation")
    word = _find(text, workdir, environ)
    if word is None and job.homepackage.strip() not in _EMPTY:
        word = _in_workdir(f"{job.homepackage.strip().strip('/')}/{text}", workdir)
    if word is None and " " in text:
        first, rest = text.split(None, 1)
        found = _find(first, workdir, environ)
        word = f"{found} {rest}" if found else None
    if word is None:
        raise _not_found(f"{text}: neither a URL, nor a file in the work directory, nor a command on this node")
    return word


def build_environment(
    job: Job, environ: Mapping[str, str], extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the payload's environment: the pilot's own without its server identity, plus the job's variables.

    Args:
        job: the job.
        environ: the pilot's environment.
        extra: what the queue or the experiment adds; an empty X509_USER_PROXY removes the variable.
    """
    result = {name: value for name, value in environ.items() if name not in PRIVATE_VARIABLES}
    result["PANDAID"] = result["PandaID"] = job.jobid
    result["PanDA_TaskID"] = job.taskid
    result["PanDA_AttemptNr"] = str(job.attemptnr)
    result["PILOT_EXEC_ITERATION_COUNT"] = "0"
    result.update(extra or {})
    if not result.get("X509_USER_PROXY"):
        result.pop("X509_USER_PROXY", None)
    return result


def _find(name: str, workdir: Path, environ: Mapping[str, str]) -> str | None:
    """Return the shell word for a file of the work directory, an executable path or a command in PATH."""
    word = _in_workdir(name, workdir)
    if word is not None:
        return word
    if name.startswith("/"):
        return shlex.quote(name) if os.path.isfile(name) and os.access(name, os.X_OK) else None
    if "/" not in name and shutil.which(name, path=environ.get("PATH", os.defpath)):
        return shlex.quote(name)
    return None


def _in_workdir(name: str, workdir: Path) -> str | None:
    """Return the shell word that runs the file ``name`` of the work directory, None when there is none."""
    while name.startswith("./"):
        name = name[2:]
    try:
        path = inside(workdir, name)
    except UnsafePath:
        return None
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        head = read_head(path, 4, links=True)
        if name.endswith(".py"):
            return f"python3 {_local(name)}"
        if not head.startswith((b"#!", b"\x7fELF")):
            logger.info("%s in the work directory is no program", name)
            return None
        make_executable(path)
    return _local(name)


def _local(name: str) -> str:
    return shlex.quote(f"./{name}")


def _not_found(detail: str) -> PilotException:
    return PilotException(detail, code=ErrorCodes.TRANSFORMNOTFOUND)
