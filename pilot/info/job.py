"""A job: what the server asked for, and what became of it.

One object, one owner at a time: the component that holds the job may write to it. Other threads get copies.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Optional

from pilot.common.errors import ErrorList
from pilot.info.filespec import FileSpec
from pilot.info.jobreportdata import JobReportData
from pilot.util.cancel import CancelToken

if TYPE_CHECKING:
    from pilot.info.memory import MemoryUse


@dataclass
class JobTiming:
    """When things happened, twice: wall clock for people and the server, monotonic for durations (clocks jump).

    ``mark("stagein")`` starts a span, ``stop("stagein")`` ends it; names: initial (start-up of the pilot), getjob,
    stagein, setup (of the payload), payload, stageout, log.
    """

    started: dict[str, float] = field(default_factory=dict)
    spans: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Start the span ``name`` now."""
        self.started[name] = time.monotonic()
        self.wall[name] = time.time()

    def stop(self, name: str) -> None:
        """End the span ``name``; a span that was opened again adds up."""
        begin = self.started.pop(name, None)
        if begin is not None:
            self.spans[name] = self.spans.get(name, 0.0) + time.monotonic() - begin

    def seconds(self, name: str) -> int:
        """Length of a span in whole seconds, 0 when unknown; a span still open counts up to now."""
        total = self.spans.get(name, 0.0)
        begin = self.started.get(name)
        return int(total + (time.monotonic() - begin if begin is not None else 0.0))


@dataclass
class Job:
    """One job. Names follow the field's (see the job definition document); server units: MB, s, bytes."""

    jobid: str
    attemptnr: int = 0
    taskid: str = ""
    jobsetid: str = ""
    jobdefinitionid: str = ""
    jobname: str = ""
    prodsourcelabel: str = ""
    processingtype: str = ""
    produserid: str = ""
    requestid: str = ""
    resourcetype: str = ""
    nucleus: str = ""
    transfertype: str = ""
    # payload
    transformation: str = ""
    jobparams: str = ""
    homepackage: str = ""
    swrelease: str = ""
    platform: str = ""
    alrbuserplatform: str = ""
    imagename: str = ""
    containeroptions: dict[str, object] = field(default_factory=dict)
    preprocess: dict[str, str] = field(default_factory=dict)
    postprocess: dict[str, str] = field(default_factory=dict)
    coprocess: dict[str, str] = field(default_factory=dict)
    noexecstrcnv: bool = False
    is_hpo: bool = False
    is_eventservice: bool = False
    is_eventservicemerge: bool = False
    debug: bool = False
    looping_check: bool = True
    secrets: str = field(default="", repr=False)
    pilotsecrets: str = field(default="", repr=False)
    zipmap: str = ""
    writetofile: str = ""
    use_vp: bool = False
    usetestasetup: bool = False
    """The job parameters asked for the testing version of asetup (``--useTestASetup``)."""
    usetestxrootd: bool = False
    """The job parameters asked for the testing version of xrootd (``--useTestXRootD``)."""
    altstageout: Optional[bool] = None
    # resources
    corecount: int = 1
    maxcpucount: int = 0
    maxwalltime: int = 0
    minramcount: int = 0
    maxdiskcount: int = 0
    # files
    indata: list[FileSpec] = field(default_factory=list)
    outdata: list[FileSpec] = field(default_factory=list)
    logdata: list[FileSpec] = field(default_factory=list)
    allownooutput: frozenset[str] = frozenset()
    # overrides that the job parameters carry
    overwrite_queuedata: dict[str, object] = field(default_factory=dict)
    overwrite_storagedata: dict[str, object] = field(default_factory=dict)
    # whatever else the server sent, cleaned (lower layers may look things up that have no field of their own)
    definition: Mapping[str, object] = field(default_factory=dict, repr=False)
    defects: list[tuple[int, str]] = field(default_factory=list)
    """(pilot code, text) of each contradiction found while parsing; not empty = the job fails in validation."""

    # --- what became of it -------------------------------------------------------------------------------------------
    workdir: Path = Path()
    errors: ErrorList = field(default_factory=ErrorList)
    timing: JobTiming = field(default_factory=JobTiming)
    cancel: CancelToken = field(default_factory=CancelToken, repr=False)
    exit_code: Optional[int] = None
    """Exit code of the payload as reported (128+n for signal n); None while it has not ended."""
    trans_exit_code: Optional[int] = None
    """What is reported in its place, when that is something else (161, 162: no more points of an HPO job)."""
    exe_error_code: int = 0
    exe_error_diag: str = ""
    cpu_seconds: float = 0.0
    """CPU time (user + system) of the payload's whole tree."""
    core_counts: list[float] = field(default_factory=list)
    """Measured core counts, one per sample."""
    memory: Optional[MemoryUse] = None
    """Memory and I/O of the payload so far; None when nothing has been measured."""
    workdir_size: int = 0
    """Bytes: the largest size of its directory, inputs and outputs not counted; 0 until its tail begins."""
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that its transfers and its payload get: what utilities before the stage-in have found
    (``ALRB_XCACHE_PROXY``)."""
    nevents: int = 0
    """Events read: from the job report, else from the files that old releases write."""
    neventsw: int = 0
    """Events written, when one of those files says so."""
    dbtime: float = 0.0
    """s that the payload spent in data bases, by its job report."""
    dbdata: int = 0
    """Bytes that it got from them."""
    resimevents: Optional[int] = None
    """Events simulated again; None when the job report does not say."""
    report: Optional[JobReportData] = field(default=None, repr=False)
    """What the job report says; None without a usable one."""
    reported_guids: dict[str, str] = field(default_factory=dict, repr=False)
    """LFN -> GUID of outputs, from the job report or metadata.xml."""
    metadata: str = ""
    """Text of jobReport.json (or what the experiment makes of it) for the final report."""
    pilot_log_extract: str = ""
    debug_command: str = ""
    has_transfers: bool = False
    """A file of it was moved, or tried to be."""
    keep_workdir: bool = False
    """True once the server said ``nocleanup``."""
    payload_stopped: bool = False
    """The payload was ended by order of somebody outside (kill file): what it has made is its result."""
    needs_payload_proxy: bool = False
    """The payload must not run with the pilot's proxy."""
    payload_proxy: Optional[Path] = None
    """File with the payload's own proxy."""
    payload_proxy_text: str = field(default="", repr=False)
    dispatches_proxy: bool = False
    """Outputs are written, and remote files opened, with the payload's proxy, too (unified queues)."""
    secret_paths: list[Path] = field(default_factory=list)
    """Files with secrets that the pilot has written for this job, to be removed at its end."""
    keep_core: bool = False
    """The job was in debug mode: the log archive takes core files along."""
    batch_id: str = ""
    batch_type: str = ""
    start_time: float = 0.0
    """Wall clock (epoch s) when the job was granted."""
    end_time: float = 0.0

    @property
    def is_analysis(self) -> bool:
        """True for user analysis: the transformation is a URL (nothing else counts)."""
        return self.transformation.startswith(("http://", "https://"))

    @property
    def is_build(self) -> bool:
        """True for build jobs: an output has ``.lib.`` and not ``.log.`` in its name."""
        return any(".lib." in spec.lfn and ".log." not in spec.lfn for spec in self.outdata)

    @property
    def testing_versions(self) -> dict[str, str]:
        """Variables by which ALRB takes testing versions (``--useTestASetup``, ``--useTestXRootD``)."""
        wanted = {"ALRB_asetupVersion": self.usetestasetup, "ALRB_xrootdVersion": self.usetestxrootd}
        return {name: "testing" for name, flag in wanted.items() if flag}

    @property
    def payload_succeeded(self) -> bool:
        """True when the payload ended with exit code 0."""
        return self.exit_code == 0
