"""The lines that set up an ATLAS release: ALRB and asetup from CVMFS, else asetup of the site's own installation.

``source $AtlasSetup/scripts/asetup.sh AtlasOffline,21.0.15,notest --platform x86_64-slc6-gcc62-opt --makeflags=...``

Source: payload document 4.2. Everything is a function of its arguments; only whether a directory exists is looked up.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping

from pilot.common.exception import PilotException
from pilot.util.bounded import TookTooLong, bounded

if TYPE_CHECKING:
    from pilot.info.job import Job
    from pilot.info.queuedata import QueueData

REPOSITORY = "atlas.cern.ch/repo"
_NUMBERED = re.compile(r"\d+\.\d+\.\d+")
_ANALYSIS = re.compile(r"AnalysisTransforms-*")
_LOCAL_SETUP = "source ${ATLAS_LOCAL_ROOT_BASE}/user/atlasLocalSetup.sh --quiet;"
_ASETUP = "source $AtlasSetup/scripts/asetup.sh"
_NO_SOFTWARE = 1186
PATIENCE = 60.0
"""s that a look at the software may take: /cvmfs may have to be mounted for it."""


@dataclass(frozen=True)
class Setup:
    """What stands in front of the payload: two pieces, because a container of ALRB takes them apart."""

    alrb: str = ""
    """Sets up ALRB; ends with ``;``."""
    release: str = ""
    """Sets up the release; no ``;`` at its end."""

    @property
    def text(self) -> str:
        """Both pieces."""
        return self.alrb + self.release


def is_defined(text: str) -> bool:
    """False for what the server sends in place of nothing: '', ``NULL``, ``None``, blanks."""
    return text.strip().lower() not in ("", "null", "none")


def cvmfs_base(environ: Mapping[str, str]) -> str:
    """Return the root of all CVMFS repositories: ``$ATLAS_SW_BASE``, else /cvmfs."""
    return environ.get("ATLAS_SW_BASE") or "/cvmfs"


def pilot_prepares(job: Job) -> bool:
    """False when the job parameters bring their own asetup (``noExecStrCnv``)."""
    return not (job.noexecstrcnv and "asetup.sh" in job.jobparams)


def wants_setup(job: Job, queue: QueueData) -> bool:
    """False without a release, and where there is no CVMFS but a container that has one (payload document 4.2).

    An entry for the middleware alone says nothing about the payload.
    """
    contained = "pilot" in queue.container_type or "wrapper" in queue.container_type
    return is_defined(job.swrelease) and (queue.is_cvmfs or not contained)


def alrb_setup(base: str) -> str:
    """Return the line that sets up ALRB from the repositories below ``base``."""
    return f"export ATLAS_LOCAL_ROOT_BASE={shlex.quote(f'{base}/{REPOSITORY}/ATLASLocalRootBase')};{_LOCAL_SETUP}"


def release_setup(job: Job, queue: QueueData, environ: Mapping[str, str]) -> Setup:
    """Return the set-up of a job on the grid.

    Raises:
        PilotException: 1186, there is neither the CVMFS repository nor another installation, or it hangs.
        CancelledError: the job is to end.
    """
    if not wants_setup(job, queue):
        return Setup()
    prepare = pilot_prepares(job)
    base = cvmfs_base(environ)
    if _is_directory(f"{base}/{REPOSITORY}", job):
        return Setup(alrb_setup(base), f"{_ASETUP} {asetup_arguments(job, environ)}" if prepare else "")
    directory = queue.appdir or environ.get("VO_ATLAS_SW_DIR", "")
    if not directory:
        raise PilotException(
            f"{base}/{REPOSITORY} does not exist, queue {queue.name} has no appdir, and VO_ATLAS_SW_DIR is not set: "
            "there is no ATLAS software on this node", code=_NO_SOFTWARE)
    if not _is_directory(directory, job):
        origin = f"appdir of queue {queue.name}" if queue.appdir else "VO_ATLAS_SW_DIR"
        raise PilotException(
            f"software directory does not exist: {directory} ({origin}; there is no {base}/{REPOSITORY} either)",
            code=_NO_SOFTWARE)
    script = f"source {shlex.quote(f'{directory}/scripts/asetup.sh')}"
    return Setup(release=f"{script} {asetup_arguments(job, environ)}" if prepare else "")


def _is_directory(path: str, job: Job) -> bool:
    """Look at a network file system, which may be dead."""
    try:
        return bounded(lambda: os.path.isdir(path), PATIENCE, job.cancel, "software")
    except TookTooLong as exc:
        raise PilotException(f"the file system of {path} hangs: {exc}", code=_NO_SOFTWARE) from exc


def asetup_arguments(job: Job, environ: Mapping[str, str]) -> str:
    """Return what stands behind ``asetup.sh``: options, ``--platform``, ``--makeflags``."""
    options = asetup_options(job.swrelease, job.homepackage, fast="ATLAS_FAST_ASETUP" in environ)
    platform = f" --platform {shlex.quote(job.platform)}" if is_defined(job.platform) else ""
    return f"{shlex.quote(options)}{platform} --makeflags='$MAKEFLAGS'"


def asetup_options(swrelease: str, homepackage: str, *, fast: bool = False) -> str:
    """Return the comma list for asetup.

    Args:
        swrelease: ``Atlas-21.0.15``; also ``Atlas-`` when the release is in the other field.
        homepackage: ``AtlasOffline/21.0.15``, ``AnalysisTransforms-AtlasDerivation_20.7.6.4``; nightlies have a
            branch and a time stamp: ``Athena/main/2026-11-20T2101``.
        fast: with option ``fast`` (variable ATLAS_FAST_ASETUP).
    """
    release = swrelease.strip()
    release = release[len("Atlas-"):] if release.startswith("Atlas-") else release
    package = homepackage.strip() if is_defined(homepackage) else ""
    if "AnalysisTransforms" in package:
        rest = _ANALYSIS.sub("", package, count=1)
        options = [release] if not rest or not _NUMBERED.fullmatch(release) else []
        options += rest.split("_")
    else:
        options = package.split("/")
        if release not in package and release not in options:
            options.append(release)
    return ",".join([*filter(None, options), "notest", *(["fast"] if fast else [])])
