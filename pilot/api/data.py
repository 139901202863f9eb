"""Moves files for other programs with the pilot's own planner and copytools: the clients that Harvester uses.

::

    client = StageInClient(infosys, acopytools={"default": ["rucio"]})
    client.transfer([FileSpec(lfn="x.root", scope="mc23", workdir="/data")])     each FileSpec gets its outcome

    StageInClient  ──► pilot.staging.stagein.bring_inputs  ◄── the pilot (control/data)
    StageOutClient ──► pilot.staging.stageout.store_files  ◄──

No signal handler, no change of directory or environment, nothing global: a client belongs to whoever made it, and
``transfer`` may run in any thread. Helper processes of client libraries end with the call.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.info.filespec import FileSpec
from pilot.info.infoservice import InfoService
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import GENERIC_PREFIX, Settings, load_settings
from pilot.staging.context import StagingContext, TransferRecord
from pilot.staging.outputs import new_guid
from pilot.staging.stagein import bring_inputs
from pilot.staging.stageout import store_files
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool

__all__ = ["StageInClient", "StageOutClient", "StagingClient"]

Tools = Union[str, Sequence[str], Mapping[str, Any], None]
FileLike = Union[FileSpec, Mapping[str, Any]]

_WITHOUT_MEANING = frozenset({"cwd", "jobworkdir", "usecontainer", "use_bulk", "checkinputsize", "ddmconf"})
"""Arguments of callers that were written for Pilot 2 and 3; the planner finds these things out itself."""
_LAST_SECONDS = 5.0
"""For the end of helper processes; one that does not end is killed by then, or waits in the kernel."""
_NO_RESERVE = f"{GENERIC_PREFIX}LIMITS__RESERVE_SPACE"


class StagingClient(ABC):
    """What both clients have in common.

    Args:
        infosys: queue and storage descriptions, initialised for a queue. Its ``queuedata`` is read now: what the
            caller wants to change there has to be changed before.
        acopytools: which copytools to try: a name, a list of names, or activity -> names; default: the queue's.
        logger: gets a line per call.
        default_copytools: when neither ``acopytools`` nor the queue names any for activity ``default``.
        trace_report: fields that go on top of every Rucio trace that is sent.
        site: name of a queue, in place of ``infosys``: its description is loaded now.
        settings: settings of the pilot; default: the packaged ones under ``HARVESTER_PILOT_CONFIG`` and the variables
            ``PANDA_PILOT_<SECTION>__<KEY>``, without a reserve of disk space for a job.
        record: told of every attempt, successful or not; called from transfer threads.
        traces: send Rucio traces (setting ``rucio.url``) after each call, for tools that have them; one request, a
            failure of it is only logged.

    Raises:
        PilotException: no queue description (1116, 1117), or ``infosys`` is not initialised.
        SettingsError: 1008, settings of the environment cannot be used.
    """

    def __init__(
        self,
        infosys: Optional[InfoService] = None,
        acopytools: Tools = None,
        logger: Optional[logging.Logger] = None,
        default_copytools: Union[str, Sequence[str]] = "rucio",
        trace_report: Optional[Mapping[str, Any]] = None,
        *,
        site: str = "",
        settings: Optional[Settings] = None,
        record: Optional[Callable[[TransferRecord], None]] = None,
        traces: bool = True,
    ) -> None:
        if infosys is None:
            infosys = InfoService()
            infosys.init(site)
        self._infosys = infosys
        self._settings = settings or load_settings(None, {_NO_RESERVE: "0", **os.environ})
        self._queue = _with_tools(infosys.queuedata, acopytools, default_copytools)
        self._logger = logger or logging.getLogger(__name__)
        self._record = record
        self._trace_report = dict(trace_report or {})
        self._traces = traces and bool(self._settings.rucio.url)
        self.token = CancelToken()
        """``client.token.cancel(1200, "reason")`` from another thread breaks a transfer off within about a second."""

    def transfer(
        self,
        files: Sequence[FileLike],
        activity: Union[str, Sequence[str]] = "",
        *,
        workdir: Union[str, Path, None] = None,
        use_vp: bool = False,
        use_pcache: Optional[bool] = None,
        catchall: Optional[str] = None,
        rucio_host: str = "",
        input_dir: Union[str, Path] = "",
        output_dir: Union[str, Path] = "",
        stageout_attempts: int = 1,
        job: Optional[Job] = None,
        args: Any = None,
        **ignored: Any,
    ) -> list[Any]:
        """Move the files; returns when each one has its outcome.

        Args:
            files: the FileSpecs; those with a final ``status`` are left alone. Their ``workdir`` says where each lies
                or is to lie. Mappings ``{scope, name, destination}`` are understood, too (Pilot 2's first interface).
            activity: of the queue's copytools and schemes, or several, the first with an entry wins; default: those
                of a job's stage-in or stage-out.
            workdir: directory of files that have none of their own; default: that of the first file, else the current
                one.
            use_vp: the inputs are on a virtual placement.
            use_pcache, catchall: in place of the queue's.
            rucio_host: in place of the setting ``rucio.host``.
            input_dir, output_dir: local directories instead of storages (copytools mv, s3, ...).
            stageout_attempts: tries per output and copytool.
            job: for its overrides of queue and storage data, its kind (analysis) and the traces.
            args: an object whose ``input_dir`` and ``output_dir`` are taken when not given.
            **ignored: ``cwd``, ``jobworkdir``, ``usecontainer``, ``use_bulk``, ``checkinputsize``, ``ddmconf``.

        Returns:
            The FileSpecs, each with ``status`` (``transferred``, ``remote_io``, ``no_transfer``, ``failed``),
            ``status_code`` (pilot error code, 0 = good), ``turl``, ``surl``, ``ddmendpoint``, ``filesize`` (bytes) and
            ``checksum``. For mappings: mappings with ``errno``, ``errmsg`` and ``status`` besides; then a failure of
            files is told there and nowhere else.

        Raises:
            PilotException: the cause of the first failure, after every file was tried.
            CancelledError: ``token`` was cancelled.
            TypeError: an argument that nobody knows.
        """
        unknown = sorted(set(ignored) - _WITHOUT_MEANING)
        if unknown:
            raise TypeError(f"transfer() does not know {', '.join(unknown)}")
        specs = [_spec_of(item, self._filetype) for item in files]
        for spec in specs:
            spec.workdir = spec.workdir.absolute() if spec.workdir is not None else None
        if not any(spec.require_transfer() for spec in specs):
            return _answers(files, specs, None)
        directory = Path(workdir or next((spec.workdir for spec in specs if spec.workdir), Path())).absolute()
        job = replace(job, workdir=directory) if job is not None else Job(jobid="", workdir=directory)
        options = Options(
            input_dir=os.fspath(input_dir or getattr(args, "input_dir", "") or ""),
            output_dir=os.fspath(output_dir or getattr(args, "output_dir", "") or ""),
            rucio_host=rucio_host, stageout_attempts=stageout_attempts)
        queue = replace(
            self._queue, use_pcache=self._queue.use_pcache if use_pcache is None else use_pcache,
            catchall=self._queue.catchall if catchall is None else catchall)
        queue = _for_activity(queue, activity)
        records: list[TransferRecord] = []
        ctx = self._context(job, queue, options, records, use_vp=use_vp)
        failure: Optional[PilotException] = None
        self._logger.info("%s of %d files by %s, queue %s", self._label, len(specs), queue.acopytools or "default",
                          queue.name)
        try:
            self._move(job, specs, ctx)
        except PilotException as exc:
            failure = exc
            if all(isinstance(item, FileSpec) for item in files):
                raise
        except OSError as exc:
            raise self._failure(f"{exc.strerror or exc}: {exc.filename or directory}") from exc
        finally:
            ctx.helpers.close(wait=_LAST_SECONDS)
            self._send_traces(job, ctx, records)
        return _answers(files, specs, failure)

    def _context(
        self, job: Job, queue: QueueData, options: Options, records: list[TransferRecord], *, use_vp: bool
    ) -> StagingContext:
        settings, told = self._settings, self._record

        def record(attempt: TransferRecord) -> None:
            records.append(attempt)
            if told is not None:
                told(attempt)

        def storage(names: list[str]) -> Mapping[str, Any]:
            if job.overwrite_storagedata:
                return self._infosys.storage_for(job, names)
            return self._infosys.resolve_storage_data(names)

        helper = settings.transfers.helper_python
        return StagingContext(
            settings=settings, options=options, queue=queue, pilot_home=job.workdir, launch_dir=job.workdir,
            storage=storage, record=record, job_id=job.jobid or f"api-{secrets.token_hex(4)}",
            attempt_nr=job.attemptnr, use_vp=use_vp or job.use_vp, workdir=job.workdir,
            helpers=HelperPool(job.workdir, (helper,) if helper else ()))

    def _send_traces(self, job: Job, ctx: StagingContext, records: Sequence[TransferRecord]) -> None:
        """Tell Rucio in one request; nothing that goes wrong here is the caller's trouble."""
        if not self._traces or not any(item.traced for item in records):
            return
        from pilot.control.traces import TracePost
        from pilot.staging.traces import trace_base, trace_of
        from pilot.staging.tracesender import HOST_PATIENCE, body_of
        from pilot.store.transferrows import TraceEntry
        from pilot.util.hostnames import HostNames
        from pilot.version import PILOT_VERSION

        base = trace_base(
            job, environ=ctx.environ, pilot_version=PILOT_VERSION, queue=ctx.queue.resource, started=time.time(),
            host=ctx.environ.get("PANDA_HOSTNAME") or socket.gethostname())
        made = [trace for item in records if (trace := trace_of(base, item)) is not None]
        entries = [TraceEntry(number, job.jobid, str(trace["transferId"]), {**trace, **self._trace_report}, 0)
                   for number, trace in enumerate(made)]
        if entries:
            answer = TracePost(self._settings, None)(body_of(entries, HostNames(HOST_PATIENCE)))
            if not answer.taken:
                self._logger.warning("%d trace(s) were not taken: %s", len(entries), answer.shown)

    _filetype: str
    _label: str
    _failure: type[PilotException]

    @abstractmethod
    def _move(self, job: Job, files: list[FileSpec], ctx: StagingContext) -> None:
        """Call the planner."""


class StageInClient(StagingClient):
    """Brings inputs: found in the Rucio catalogue or at their endpoints, verified by size and checksum."""

    _filetype = "input"
    _label = "stage-in"
    _failure = StageInFailure

    def _move(self, job: Job, files: list[FileSpec], ctx: StagingContext) -> None:
        job.indata = files
        bring_inputs(job, ctx, self.token)


class StageOutClient(StagingClient):
    """Stores outputs at the endpoints of the queue, or at their own ``ddmendpoint`` where the queue has it.

    Registration in the catalogue is the caller's: ``surl``, ``ddmendpoint``, ``filesize`` and ``checksum`` say what.
    """

    _filetype = "output"
    _label = "stage-out"
    _failure = StageOutFailure

    def _move(self, job: Job, files: list[FileSpec], ctx: StagingContext) -> None:
        for spec in files:
            spec.guid = spec.guid or new_guid()
            if spec.workdir is None and os.path.isabs(spec.surl) and os.path.basename(spec.surl) == spec.lfn:
                spec.workdir = Path(os.path.dirname(spec.surl))  # Pilot 2 and 3 keep the local path there
        store_files(job, files, ctx, self.token, log=all(spec.filetype == "log" for spec in files))


def _with_tools(queue: QueueData, acopytools: Tools, default: Union[str, Sequence[str]]) -> QueueData:
    """Return the queue with the caller's copytools in place of its own."""
    if acopytools and isinstance(acopytools, Mapping):
        table = {str(key): _names(value) for key, value in acopytools.items()}
    elif acopytools:
        table = {"default": _names(acopytools)}
    else:
        table = dict(queue.acopytools) or ({"default": list(queue.copytools)} if queue.copytools else {})
    table.setdefault("default", _names(default))
    return replace(queue, acopytools=table)


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _for_activity(queue: QueueData, activity: Union[str, Sequence[str]]) -> QueueData:
    """Return the queue with the copytools and schemes of the caller's activities for everything."""
    if not activity:
        return queue
    wanted = [*_names(activity), "default"]
    schemas = next((value for name in wanted if (value := queue.acopytools_schemas.get(name))), None)
    return replace(queue, acopytools={"default": queue.copytools_for(wanted)},
                   acopytools_schemas={"default": schemas} if schemas else {})


def _spec_of(item: FileLike, filetype: Any) -> FileSpec:
    if isinstance(item, FileSpec):
        return item
    known = ("scope", "dataset", "guid", "ddmendpoint", "filesize", "checksum")
    facts = {key: item[key] for key in known if key in item}
    return FileSpec(lfn=item["name"], filetype=filetype, workdir=item.get("destination"), **facts)


def _answers(files: Sequence[FileLike], specs: Sequence[FileSpec], failure: Optional[PilotException]) -> list[Any]:
    """Return what came in, in its own form."""
    answers: list[Any] = []
    for item, spec in zip(files, specs):
        if isinstance(item, FileSpec):
            answers.append(spec)
            continue
        code = spec.status_code or (failure.code if failure and spec.require_transfer() else 0)
        text = failure.full_text if failure and code else ""
        answers.append({**item, "errno": code, "errmsg": text, "status": spec.status or "failed"})
    return answers
