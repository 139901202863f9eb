"""A local DBRelease: transforms that ask for a tarball of it get a small one which points to the copy on CVMFS.

``DBRelease-31.8.1.tar.gz`` in the job parameters: a tarball of that name with ``DBRelease/31.8.1/setup.py``, which
tells the release where the data base files are, and the link ``DBRelease/current``. Source: payload document 4.8.
"""

from __future__ import annotations

import io
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Mapping

from pilot.common.exception import PilotException
from pilot.user.atlas.asetup import REPOSITORY, cvmfs_base
from pilot.util.copying import placed

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask

logger = logging.getLogger(__name__)

DOWNLOAD = "ATLAS_DBREL_DWNLD"
"""Variable of the site: the real tarball is an input like any other."""
_NAME = re.compile(r"DBRelease-(\d{1,9}(?:\.\d{1,9}){2,3})\.tar\.gz")
_DBRELEASE_FAILURE = 1339


def is_dbrelease(lfn: str, environ: Mapping[str, str]) -> bool:
    """True for an input that the pilot replaces by its own tarball."""
    return "DBRelease" in lfn and not environ.get(DOWNLOAD)


def requested_version(parameters: str) -> str:
    """Return the version of the tarball that the job parameters name, '' when they name none."""
    found = _NAME.search(parameters)
    return found.group(1) if found else ""


def setup_text(directory: str, version: str) -> str:
    """Return the text of setup.py, which transforms execute.

    Args:
        directory: where the versions of DBRelease are, e.g. ``/cvmfs/atlas.cern.ch/repo/sw/database/DBRelease``.
        version: ``31.8.1``.
    """
    place = f"{directory}/{version}"
    values = {"DBRELEASE": version, "DBRELEASE_REQUIRED": version, "DBRELEASE_REQUESTED": version,
              "CORAL_DBLOOKUP_PATH": f"{place}/XMLConfig"}
    lines = [f"os.environ[{name!r}] = {value!r}" for name, value in values.items()]
    datapath = f"os.environ['DATAPATH'] = {f'{place}:'!r} + os.environ.get('DATAPATH', '')"
    return "\n".join(["import os", "", *lines, datapath, ""])


def make_local_dbrelease(task: PayloadTask) -> None:
    """Write the tarball that the job parameters name into the job's directory; one that is there stays.

    Raises:
        PilotException: 1339, it cannot be written.
    """
    version = requested_version(task.parameters)
    if not version:
        return
    path = task.workdir / f"DBRelease-{version}.tar.gz"
    if os.path.lexists(path):
        return
    software = task.environ.get("VO_ATLAS_SW_DIR") or f"{cvmfs_base(task.environ)}/{REPOSITORY}/sw"
    try:
        write_tarball(path, setup_text(f"{software}/database/DBRelease", version), version)
    except OSError as exc:
        raise PilotException(f"{path.name} cannot be written to the work directory: {exc.strerror or exc}",
                             code=_DBRELEASE_FAILURE) from exc
    logger.info("job %s: %s written, the data bases are in %s", task.job.jobid, path.name, software)


def write_tarball(path: Path, text: str, version: str) -> None:
    """Write the tarball with setup.py and the link, complete or not at all.

    Raises:
        OSError: it cannot be written.
    """
    import tarfile

    content = text.encode()
    with placed(path) as part, tarfile.open(part, "w:gz") as tar:
        for name in ("DBRelease", f"DBRelease/{version}"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
        script = tarfile.TarInfo(f"DBRelease/{version}/setup.py")
        script.size, script.mode = len(content), 0o644
        tar.addfile(script, io.BytesIO(content))
        link = tarfile.TarInfo("DBRelease/current")
        link.type, link.linkname = tarfile.SYMTYPE, version
        tar.addfile(link)
