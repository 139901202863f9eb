"""What of an ATLAS job's directory does not belong into its log archive (payload document, section 17).

Patterns are relative to the job's directory, a leading slash means nothing: the reference takes ``/cores`` and
``/work`` for directories of the node, and removes them. Nothing is removed here: what matches is not archived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pilot.info.job import Job

PATTERNS = tuple(
    """.asetup.save AtlasProduction* AtlasPoint1 AtlasTier0 buildJob* CDRelease* ckpt* csc*.log DBRelease*
    EvgenJobOptions external fort.* geant4 geomDB geomDB_sqlite home LICENSE madevent o..pacman..o pacman-* python*
    requirements.txt runAthena* runGen-* scratch setup.cfg share sources.* sqlite* sw stage*.sh tcf_* triggerDB
    trusted.caches workdir *.data* *.events *.py *.pyc *.root* tmp* *.tmp *.TMP *.writing pwg* pwhg* *PROC* *proxy
    *runcontainer* *job.log.tgz pandawnutil src singularity_cachedir apptainer_cachedir _joproxy15 HAHM_* Process
    merged_lhef._0.events-new panda_secrets.json singularity apptainer /cores /panda_pilot* /work README* MANIFEST*
    *.part* docs /venv /pilot3 usr %1 open_remote_file_cmd.sh""".split()  # noqa: SIM905 - as it stands in the list
)
OTHERS = ("*.a", "EventService_premerge_*.tar", "pilot", "cores")
"""Libraries, archives of the event service, the pilot's own directory, core dumps."""
WORKERS = "athenaMP-workers-*"
_WORKDIR_WANTED = frozenset({1150, 1235})
"""Looping and too much memory: what the transform has done in ``workDir`` tells why."""


def redundant_patterns(job: Job) -> list[str]:
    """Return the patterns for one job beside the lists: they depend on outputs, errors and debug mode."""
    parts = ["pool.root", "tmp.", *(spec.lfn for spec in job.outdata)]
    if not job.debug:
        parts.append("core")
    workers = [f"{WORKERS}/*{_literal(part)}*" for part in parts]
    wanted = any(error.code in _WORKDIR_WANTED for error in job.errors)
    return [*workers, "workDir/*.root*" if wanted else "workDir"]


def _literal(text: str) -> str:
    """Return a pattern that stands for the text itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
