"""OutputFiles.xml: tells Nordugrid (ARC) which files a job has stored, where the server is told nothing.

Every child is text. Readers know the file by ``filename`` (Pilot 1) or by ``lfn``, so it has both.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Iterable

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.util.copying import placed

logger = logging.getLogger(__name__)

OUTPUT_FILES = "OutputFiles.xml"

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Characters that XML 1.0 has no way to write.
_FORBIDDEN = {number: None for number in (*range(32), 0xFFFE, 0xFFFF) if chr(number) not in "\t\n\r"}


def output_files_text(files: Iterable[FileSpec], when: float) -> str:
    """Return the XML text for ``files``; ``when`` (epoch, s) is their date, written in UTC."""
    lines = ['<?xml version="1.0" ?>', "<outfiles>"]
    for spec in files:
        sums = {"ad32": spec.checksum.get("adler32"), "md5": spec.checksum.get("md5")}
        children = {
            "filename": spec.lfn, "lfn": spec.lfn, "guid": spec.guid, "size": str(spec.filesize),
            **{name: value for name, value in sums.items() if value},
            "date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when)),
            "dataset": spec.dataset, "surl": spec.turl or spec.surl,
        }
        lines.append("   <file>")
        lines += [f"      <{name}>{_text(value)}</{name}>" for name, value in children.items()]
        lines.append("   </file>")
    return "\n".join([*lines, "</outfiles>", ""])


def _text(value: str) -> str:
    clean = value.translate(_FORBIDDEN).encode("utf-8", "replace").decode("utf-8")
    return clean.translate(_ESCAPES)


def write_output_files(job: Job, directory: Path) -> None:
    """Write OutputFiles.xml for what was stored of ``job``, log included, all or nothing; a failure is logged."""
    files = [spec for spec in (*job.outdata, *job.logdata) if spec.status == "transferred"]
    path = directory / OUTPUT_FILES
    try:
        with placed(path) as part:
            part.write_text(output_files_text(files, job.end_time or time.time()), encoding="utf-8")
    except OSError as exc:
        logger.error("job %s: %s could not be written: %s", job.jobid, path, exc.strerror)
    else:
        logger.info("job %s: %d files are listed in %s", job.jobid, len(files), path)
