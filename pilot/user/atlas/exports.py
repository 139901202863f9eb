"""What is exported in front of an ATLAS payload, in the order that the sites know (payload document 4.5).

The values come from the job and from the environment that its payload gets, never from the pilot's own environment:
several jobs may be on their way.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Mapping, Optional

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.payloadtask import PayloadTask

UNKNOWN = "unknown"
PROC, PROC_JOB, CORES = "ATHENA_PROC_NUMBER", "ATHENA_PROC_NUMBER_JOB", "ATHENA_CORE_NUMBER"
TOKENS = ("OIDC_AUTH_TOKEN", "OIDC_AUTH_ORIGIN", "PANDA_AUTH_TOKEN", "PANDA_AUTH_ORIGIN", "OIDC_REFRESHED_AUTH_TOKEN")
"""What names the pilot's tokens; a payload must not find them."""
_PAIR = re.compile(r"(?:(?<=\s)|^)([A-Za-z_][A-Za-z0-9_]*)=")
_QUOTED = re.compile(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""")


def number(environ: Mapping[str, str], name: str) -> Optional[int]:
    """Return a variable that is a positive number, None for anything else."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 7 and int(text) > 0 else None


def core_environment(environ: Mapping[str, str], corecount: int) -> dict[str, str]:
    """Return the variables with the number of cores, '' for one that goes away.

    ATHENA_PROC_NUMBER belongs to the wrapper: the pilot keeps to it when it is there and never sets it.
    """
    given = number(environ, PROC)
    if given is not None:
        return {PROC_JOB: "", CORES: str(given)}
    return {PROC_JOB: str(corecount), CORES: str(corecount)}


def core_exports(environ: Mapping[str, str], line: str) -> str:
    """Return the exports of the number of cores in front of everything else; ``line`` is what follows.

    Args:
        environ: with the variables of ``core_environment``.
        line: the rest; one that sets or unsets ATHENA_PROC_NUMBER itself is not overruled.
    """
    exports = ""
    if f"{PROC}=" not in line and f"unset {PROC};" not in line:
        processes = number(environ, PROC) or number(environ, PROC_JOB) or 0
        if processes > 1 or number(environ, PROC):
            exports = f"export {PROC}={processes};"
    cores = number(environ, CORES) or 0
    return f"export {CORES}={cores};{exports}" if cores > 1 else exports


def queue_exports(text: str) -> str:
    """Return the exports for the queue's ``environ``: ``KEY1=VALUE1 KEY2=VALUE2``.

    A value reaches up to the next `` WORD=``. It is quoted for the shell, unless it contains ``$``, which the sites
    expect to be expanded, or has quotes of its own.
    """
    found = list(_PAIR.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return "".join(f"export {match.group(1)}={_word(text[match.end():end].strip())};"
                   for match, end in zip(found, ends))


def _word(value: str) -> str:
    if _QUOTED.fullmatch(value):
        return value
    if "$" not in value:
        return shlex.quote(value) if value else ""
    return f'"{value}"' if re.search(r"\s", value) and '"' not in value else value


def payload_exports(task: PayloadTask, body: str, inds: str) -> str:
    """Return the block of exports, from PANDA_RESOURCE to RUCIO_ACCOUNT.

    Args:
        task: the payload.
        body: the line behind the exports.
        inds: input dataset, see ``input_dataset``.
    """
    job, environ = task.job, task.environ
    processes = number(environ, PROC)
    parts = [
        f"export PANDA_RESOURCE={quoted(task.queue.resource or task.queue.name)};",
        f'export FRONTIER_ID="[{job.taskid}_{job.jobid}]";',
        "export CMSSW_VERSION=$FRONTIER_ID;",
        f"export PandaID={job.jobid or UNKNOWN};",
        f"export PanDA_TaskID={quoted(job.taskid or UNKNOWN)};",
        f"export PanDA_AttemptNr={quoted(str(job.attemptnr))};",
        f"export INDS={quoted(inds)};",
    ]
    if "Merge_tf" in body and environ.get(PROC):
        parts.append(f"unset {PROC};unset {CORES};")
    if job.is_analysis:
        parts += ["export ROOT_TTREECACHE_SIZE=1;", f"export ROOTCORE_NCPUS={processes or 1};"]
    if job.processingtype:
        parts.append(f"export RUCIO_APPID={quoted(job.processingtype)};")
    return "".join([*parts, "unset RUCIO_ACCOUNT;"])


def input_dataset(job: Job) -> str:
    """Return the first input dataset that is neither a DBRelease nor a library, ``unknown`` when there is none."""
    value = job.definition.get("realDatasetsIn", "")
    names = [str(name) for name in value] if isinstance(value, (list, tuple)) else str(value or "").split(",")
    names += [str(spec.dataset or "") for spec in job.indata]  # a list of absurd length is not kept
    for name in (item.strip() for item in names):
        if name and name != "NULL" and "DBRelease" not in name and ".lib." not in name:
            return name
    return UNKNOWN


def token_unsets(task: PayloadTask) -> str:
    """Return ``unset <name>;`` for each variable that names a token of the pilot."""
    return "".join(f"unset {name};" for name in TOKENS if task.environ.get(name) or name in task.withheld)


def quoted(text: str) -> str:
    """Return the text in single quotes, always."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
