"""HTCondor learns which job runs in its slot: attributes PandaID and PandaPilotId of the batch job, by condor_chirp.

In the background, bounded, and never a reason for anything: monitoring of sites reads it. Source:
control-and-monitoring document 3.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

_TIME = 20.0
_THREAD = "condor-chirp"
_PLACES = ("/usr/libexec/condor", "/usr/lib/condor/libexec")


def tell_condor(ctx: PilotContext, job: Job) -> None:
    """Set the two attributes, in a thread of its own; nothing happens outside of HTCondor or without condor_chirp."""
    if "_CONDOR_JOB_AD" not in ctx.environ:
        return
    tool = find_chirp(ctx.environ)
    if not tool:
        logger.debug("no condor_chirp: HTCondor is not told of job %s", job.jobid)
        return
    from pilot.version import PILOT_VERSION

    gtag = ctx.environ.get("GTAG") or "unknown"
    attributes = {"PandaID": job.jobid, "PandaPilotId": f"{PILOT_VERSION}-{ctx.options.version_tag}-{gtag}"}

    def tell() -> None:
        for name, value in attributes.items():
            _set(ctx, tool, name, value)

    threading.Thread(target=tell, name=_THREAD, daemon=True).start()


def leave_condor(ctx: PilotContext) -> None:
    """End a condor_chirp that still runs when the pilot ends; waits a second for it at most."""
    for thread in threading.enumerate():
        if thread.name == _THREAD:
            ctx.lookups.cancel(0, "the pilot ends")
            thread.join(1.0)


def find_chirp(environ: Mapping[str, str]) -> str:
    """Return the path of condor_chirp: from PATH, ``_CONDOR_LIBEXEC``, or where packages put it; '' = not here."""
    places = [environ.get("PATH", ""), environ.get("_CONDOR_LIBEXEC", ""), *_PLACES]
    return shutil.which("condor_chirp", path=os.pathsep.join(filter(None, places))) or ""


def quoted(value: str) -> str:
    """Return a ClassAd string literal; control characters become blanks."""
    clean = "".join(char if char.isprintable() else " " for char in value)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _set(ctx: PilotContext, tool: str, name: str, value: str) -> None:
    from pilot.util.cancel import CancelledError
    from pilot.util.command import run_command

    try:
        done = run_command([tool, "set_job_attr", name, quoted(value)], env=ctx.environ, cwd=Path("/"),
                           token=ctx.lookups, timeout=_TIME)
    except (OSError, CancelledError) as exc:
        logger.debug("condor_chirp: %s", exc)
        return
    if done.code:
        logger.info("HTCondor does not take %s=%s: %s", name, value, done.output[-200:] or f"exit code {done.code}")
