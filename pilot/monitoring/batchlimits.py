"""When the batch system ends this job, as far as it says so to the job: environment, or HTCondor's ClassAd files.

======================  ===========================================================================================
Slurm                   SLURM_JOB_END_TIME (22.05 and later), else squeue is asked once (``slurm_time_left``)
HTCondor                job ad: AllowedExecuteDuration, AllowedJobDuration, MaxRuntime, BatchRuntime (s),
                        MaxWallTime (min), a run time in PeriodicRemove; machine ad: GLIDEIN_ToDie (epoch s)
PBS, Torque             PBS_WALLTIME (s)
OAR, Cobalt             OAR_JOB_WALLTIME_SECONDS; COBALT_ENDTIME (epoch s)
======================  ===========================================================================================

LSF and Grid Engine tell their jobs nothing. JobLeaseDuration of HTCondor is no limit of the run time: it is the time
that a job outlives its connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Optional

from pilot.monitoring.leaveby import End, from_epoch
from pilot.util.checksum import open_regular

_AD_LIMIT = 1 << 20
_EXPRESSION_LIMIT = 4000
_ATTRIBUTE = re.compile(r"^[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(\.\d+)?( ?\* ?\d+(\.\d+)?)*")
_DURATIONS = (("AllowedExecuteDuration", 1), ("AllowedJobDuration", 1), ("MaxRuntime", 1), ("BatchRuntime", 1),
              ("MaxWallTime", 60))
_EPOCHS = (("SLURM_JOB_END_TIME", "SLURM_JOB_START_TIME"), ("COBALT_ENDTIME", "COBALT_STARTTIME"))
_RUN_TIME = re.compile(
    r"(?:remotewallclocktime|(?:time\(\)|currenttime) ?- ?(?:jobcurrentstartdate|jobstartdate|enteredcurrentstatus)) "
    r"?>=? ?(\d+(?:\.\d+)?(?: ?\* ?\d+(?:\.\d+)?)*)")
_TIME_LEFT = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)")


def ends(environ: Mapping[str, str], started: float, began: float) -> dict[str, Optional[End]]:
    """Return the ends that the batch system names.

    Args:
        environ: of the pilot.
        started: monotonic s of the pilot's start.
        began: epoch s of the pilot's start: that of the batch job, where nothing says when that was.
    """
    found: dict[str, Optional[End]] = {}
    for end_name, start_name in _EPOCHS:
        end, start = _number(environ.get(end_name, "")), _number(environ.get(start_name, ""))
        at = None if end is None else from_epoch(end, started)
        if end is not None and at is not None:
            length = end - start if start is not None and start < end else None
            found["batch"] = End(at, f"{end_name} is {end:.0f}", length)
    for name in ("PBS_WALLTIME", "OAR_JOB_WALLTIME_SECONDS"):
        seconds = _number(environ.get(name, ""))
        at = from_epoch(began + seconds, started) if seconds else None
        if seconds and at is not None:
            found["batch"] = End(at, f"{name} is {seconds:.0f} s", seconds)
    found.update(_condor(environ, started, began))
    return found


def _condor(environ: Mapping[str, str], started: float, began: float) -> dict[str, Optional[End]]:
    job, machine = (read_ad(environ.get(name, "")) for name in ("_CONDOR_JOB_AD", "_CONDOR_MACHINE_AD"))
    start = _number(job.get("jobcurrentstartdate", "")) or _number(job.get("jobstartdate", ""))
    if start is None or start > began:
        start = began
    found: dict[str, Optional[End]] = {}
    limits = [(name, seconds * unit) for name, unit in _DURATIONS
              if (seconds := _number(job.get(name.lower(), ""))) is not None and seconds > 0]
    removed = run_time_limit(job.get("periodicremove", ""))
    if removed:
        limits.append(("PeriodicRemove", removed))
    for name, seconds in limits:
        at = from_epoch(start + seconds, started)
        if at is not None:
            found[f"condor {name}"] = End(at, f"{name} of HTCondor's job ad is {seconds:.0f} s", seconds)
    dies = _number(machine.get("glidein_todie", ""))
    at = from_epoch(dies, started) if dies else None
    if dies and at is not None:
        found["condor glidein"] = End(at, f"GLIDEIN_ToDie of HTCondor's machine ad is {dies:.0f}")
    return found


def read_ad(path: str) -> dict[str, str]:
    """Return the attributes of a ClassAd file, names in lower case, values as they stand; {} when there is none."""
    if not path.startswith("/"):
        return {}
    try:
        with open(open_regular(path), "rb") as stream:
            text = stream.read(_AD_LIMIT).decode("utf-8", "replace")
    except OSError:
        return {}
    return {name.lower(): value for name, value in _ATTRIBUTE.findall(text)}


def run_time_limit(expression: str) -> Optional[float]:
    """Return the s after which an expression of HTCondor (PeriodicRemove) is true for a job that runs, as far as that
    can be told for sure; None otherwise.

    Understood are alternatives (``||``) of a run time above a number, alone or with ``JobStatus == 2``. What holds for
    jobs that are idle or held is no limit, nor is what depends on anything else.
    """
    if len(expression) > _EXPRESSION_LIMIT:
        return None
    text = " ".join(expression.lower().split())
    text = re.sub(r"\btime ?\( ?\)", "time()", text)
    limits = []
    for clause in _split(_peeled(text), "||"):
        parts = [_peeled(part) for part in _split(_peeled(clause), "&&")]
        running = [part for part in parts if re.fullmatch(r"jobstatus ?=[=?]=? ?2", part)]
        times = [match for part in parts if (match := _RUN_TIME.fullmatch(part.replace("(time() -", "time() -")
                                                                          .replace(") >", " >").strip()))]
        if len(running) + len(times) != len(parts) or not times:
            continue
        if any("enteredcurrentstatus" in match.group(0) for match in times) and not running:
            continue  # of any status
        limits.append(max(_number(match.group(1)) or 0.0 for match in times))
    return min((limit for limit in limits if limit > 0), default=None)


def _peeled(text: str) -> str:
    """Return the text without brackets around all of it."""
    text = text.strip()
    while text.startswith("(") and text.endswith(")"):
        depth = 0
        for position, char in enumerate(text):
            depth += (char == "(") - (char == ")")
            if depth == 0 and position < len(text) - 1:
                return text
        text = text[1:-1].strip()
    return text


def _split(text: str, operator: str) -> list[str]:
    """Split at an operator that stands in no bracket."""
    parts, depth, begin = [], 0, 0
    for position, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and text.startswith(operator, position):
            parts.append(text[begin:position])
            begin = position + len(operator)
    return [*parts, text[begin:]]


def _number(text: str) -> Optional[float]:
    """Return a number or a product of numbers, None for any other expression."""
    text = text.strip().strip('"').strip()
    if not _NUMBER.fullmatch(text):
        return None
    product = 1.0
    for factor in text.split("*"):
        product *= float(factor)
    return product if product < 1e18 else None


# --- Slurm before 22.05 -----------------------------------------------------------------------------------------------


def slurm_time_left(text: str) -> Optional[float]:
    """Return the s of squeue's ``%L`` (``1-02:03:04``, ``03:04``, ``59``); None for UNLIMITED, INVALID and the like."""
    match = _TIME_LEFT.fullmatch(text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
