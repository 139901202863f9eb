"""The files that a transfer script works with, and those that other tools look for (data management document 12).

```
 stagein.py                launcher, executable          stagein_replicas.json   what is to come    (stage-in)
 pilot-source.zip          the pilot's own source        stagein_status.json     what became of it, ..
 stagein_request.json      the order                     stagein_stdout.txt, stagein_stderr.txt, stageinlog.txt
 stagein_result.json       the answer                    stagein.sh              the experiment's inner script
```
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import zipfile
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.settings import Settings
from pilot.util.checksum import open_regular
from pilot.util.copying import part_name, placed
from pilot.util.redact import redact
from pilot.version import PILOT_VERSION

logger = logging.getLogger(__name__)

_LONGEST_KEPT = 4_000_000
"""Bytes of a request or a result that stay in the job's directory."""
SOURCE = "pilot-source.zip"
"""Name of the pilot's source in the job's directory; it is there only while a script runs."""
_PACKAGE = Path(__file__).resolve().parents[1]

_LAUNCHER = '''#!/usr/bin/env python3
# Written by the pilot. Runs its transfers in a process of their own; --request names the file that says what to do.
import os
import sys

if sys.version_info < (3, 9):
    sys.stderr.write("%s: needs Python 3.9 or newer, this is %s (%s)\\n" % (
        sys.argv[0], sys.version.split()[0], sys.executable))
    sys.exit(1)
sys.dont_write_bytecode = True
sys.path[0] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "@SOURCE@")
from pilot.staging.inside import main  # noqa: E402

main(sys.argv[1:])
'''


class Names(NamedTuple):
    """Names of the files of one direction; all lie in the job's directory."""

    script: str
    request: str
    result: str
    keys: str
    stdout: str
    stderr: str
    log: str
    status: str

    @classmethod
    def of(cls, settings: Settings, *, inward: bool) -> Names:
        """Return the names by the settings of sections ``container`` and ``pilot``."""
        box, stem = settings.container, "stagein" if inward else "stageout"
        return cls(
            script=box.middleware_container_stagein_script if inward else box.middleware_container_stageout_script,
            request=f"{stem}_request.json",
            result=f"{stem}_result.json",
            keys=f".{stem}_keys.json",
            stdout=box.middleware_stagein_stdout if inward else box.middleware_stageout_stdout,
            stderr=box.middleware_stagein_stderr if inward else box.middleware_stageout_stderr,
            log=settings.pilot.stageinlog if inward else settings.pilot.stageoutlog,
            status=box.stagein_status_dictionary if inward else box.stageout_status_dictionary,
        )


def mask(path: Path) -> None:
    """Take what a queue's settings or signed URLs hold of secrets out of a file that goes into the job's log."""
    try:
        if path.stat().st_size > _LONGEST_KEPT:
            path.unlink()
            return
        with open(open_regular(path, links=False), encoding="utf-8", errors="replace") as stream:
            text = stream.read()
        masked = redact(text)
        if masked != text:
            write_text(path, masked, 0o600)
    except OSError:  # not there, or no file
        return


def make_way(directory: Path, names: Sequence[str]) -> None:
    """Move away what has one of our names and is no regular file: a payload may have left a directory or a pipe there.

    Raises:
        OSError: it cannot be moved.
    """
    for name in names:
        for path in (directory / name, part_name(directory / name)):
            try:
                mode = os.lstat(path).st_mode
            except OSError:
                continue
            if not stat.S_ISREG(mode):
                other = path.with_name(f"{path.name[:200]}.{secrets.token_hex(4)}")
                logger.warning("%s is in the way of a transfer, it is renamed to %s", path, other.name)
                os.rename(path, other)


def write_launcher(path: Path) -> None:
    """Write the script and make it executable.

    Raises:
        OSError: it cannot be written.
    """
    write_text(path, _LAUNCHER.replace("@SOURCE@", SOURCE), 0o755)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a small file, all or nothing, in place of whatever has its name.

    Raises:
        OSError: it cannot be written.
    """
    with placed(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.chmod(mode)


def pack_source(target: Path) -> None:
    """Write the pilot's source into one archive that Python can import from.

    The pilot may lie anywhere, also where a container does not see it; the job's directory is always there. All rooms
    are in it: somebody's copytool may need more than ours.

    Raises:
        OSError: it cannot be written.
    """
    with placed(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(_PACKAGE.rglob("*.py")):
            name = f"pilot/{path.relative_to(_PACKAGE)}"
            if name != "pilot/version.py":  # it reads a file beside the package
                archive.write(path, name)
        archive.writestr("pilot/version.py", f'"""Version of the pilot."""\n\nPILOT_VERSION = {PILOT_VERSION!r}\n')


# --- for other tools --------------------------------------------------------------------------------------------------


def replica_dictionary(files: Sequence[FileSpec]) -> dict[str, dict[str, Any]]:
    """Return the content of ``stagein_replicas.json``."""
    return {
        spec.lfn: {
            "guid": spec.guid, "scope": spec.scope, "dataset": spec.dataset, "ddmendpoint": spec.ddmendpoint,
            "filesize": spec.filesize, "checksum": spec.checksum.get("adler32") or spec.checksum.get("md5") or "None",
            "allowlan": spec.allow_lan, "allowwan": spec.allow_wan, "directaccesslan": spec.direct_access_lan,
            "directaccesswan": spec.direct_access_wan, "istar": spec.is_tar, "accessmode": spec.accessmode,
            "storagetoken": spec.storage_token,
        }
        for spec in files
    }  # fmt: skip


def status_dictionary(
    files: Sequence[FileSpec], failure: Optional[PilotException], *, inward: bool
) -> dict[str, list[Any]]:
    """Return the content of ``stagein_status.json`` or ``stageout_status.json``."""
    words: list[Any] = [failure.detail, failure.code] if failure else ["", 0]
    if inward:
        rows: dict[str, list[Any]] = {
            spec.lfn: [spec.status, spec.status_code, spec.turl, spec.ddmendpoint] for spec in files
        }
        return {**rows, "error": [*words, None, None]}
    rows = {
        spec.lfn: [spec.status, spec.status_code, spec.surl, spec.turl, spec.checksum.get("adler32"), spec.filesize]
        for spec in files
    }
    return {**rows, "error": [*words, None, None, None, None]}


def write_dictionary(path: Path, content: Mapping[str, Any]) -> None:
    """Write such a file, without signatures of URLs; one that cannot be written is a warning, for nothing of ours
    reads it."""
    try:
        write_text(path, redact(json.dumps(content, indent=4)))
    except OSError as exc:
        logger.warning("cannot write %s: %s", path, exc.strerror or exc)


def status_file(directory: Path, names: Names, *, log: bool) -> Path:
    """Return where the status goes: the log's has ``.log`` behind its name when the outputs' is there already."""
    path = directory / names.status
    return path.with_name(f"{path.name}.log") if log and os.path.lexists(path) else path
