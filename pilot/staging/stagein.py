"""Stage-in: inputs come to the work directory, each one verified, or are left for the payload to open remotely.

```
 files ──► replicas (one look-up) ──► direct access? ──yes──► remote_io, TURL ──► does it open?
                                          │ no                                         │
                                          ▼                                            ▼
                       transfer_group: tools, replicas, threads ──► transferred ──► PoolFileCatalog.xml
```
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Mapping, Optional, Sequence

from pilot.common.exception import NoLocalSpace, PilotException, SizeTooLarge, StageInFailure
from pilot.copytool.base import CopyTool, Direction, Replica, Transfer, TransferResult, wanted_checksum
from pilot.copytool.registry import canonical_name
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import stagein_activities
from pilot.staging.catalog import write_catalog
from pilot.staging.context import StagingContext, middleware_mode
from pilot.staging.destination import ddm_activities, deterministic_path, endpoint_url, prepare_inputddms
from pilot.staging.directaccess import decide, mark_remote, wish
from pilot.staging.group import Group, local_directory, schemes_for, transfer_timeout
from pilot.staging.remotefiles import record_unverified, verify_remote_files
from pilot.staging.replicas import NoReplicas, candidates, look_up, storage_url
from pilot.staging.suspicion import Suspicions
from pilot.staging.transfer import transfer_group
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.copying import free_bytes
from pilot.util.safepath import check_name
from pilot.util.space import free_space

logger = logging.getLogger(__name__)

MB = 1024 * 1024


def stage_in(job: Job, ctx: StagingContext, token: CancelToken) -> None:
    """Bring all inputs that still need it, then write PoolFileCatalog.xml; each FileSpec gets its status.

    A queue with ``container_type`` ``container:middleware`` or ``bash:middleware`` has them brought by another process.

    Args:
        job: its ``indata`` and ``workdir``; ``checkinputsize`` of linked files becomes False.
        ctx: surroundings.
        token: breaks running transfers off.

    Raises:
        PilotException: the cause of the first failure (1098, 1099, 1145, 1151, 1168, 1171, 1322, 1323, 1326, 1331,
            1341, 1342, 1361, 1366 ...), after every file was tried.
        CancelledError: the token was cancelled.
    """
    if ctx.options.executor_type == "raythena":  # the driver of the job brings the files
        for spec in job.indata:
            spec.status = "no_transfer"
    files = [spec for spec in job.indata if spec.require_transfer()]
    if files and middleware_mode(ctx):
        from pilot.staging.middleware import run_elsewhere

        run_elsewhere(job, files, ctx, token, direction="in")
    elif files:
        bring_inputs(job, ctx, token)
    if job.indata:
        write_catalog(job.indata, job.workdir)


def bring_inputs(job: Job, ctx: StagingContext, token: CancelToken) -> None:
    """Bring all inputs that still need it, in this process; see ``stage_in``."""
    files = [spec for spec in job.indata if spec.require_transfer()]
    with ctx.helpers.session():
        plan = _StageIn(job, files, ctx, token)
        plan.transfer()
        plan.verify_remote()


class _StageIn:
    """Stage-in of one job; used once."""

    def __init__(self, job: Job, files: list[FileSpec], ctx: StagingContext, token: CancelToken) -> None:
        self.job = job
        self.files = files
        self.ctx = ctx
        self.token = token
        self.activities = stagein_activities(ctx.queue, job.is_analysis)
        self.directory = ctx.input_destination_dir or job.workdir
        self.tools = ctx.queue.copytools_for(self.activities)
        self.no_answer: Optional[PilotException] = None
        """Why the catalogue could not be asked."""
        self.spare: dict[str, list[Replica]] = {}
        """LFN -> other replicas that may be opened remotely."""
        self.suspicions = Suspicions(ctx)

    def transfer(self) -> None:
        """Bring, or mark as remote, all files."""
        queue = self.ctx.queue
        if not self.directory.is_dir():
            raise StageInFailure(f"work directory {self.directory} does not exist")
        prepare_inputddms(self.files, queue.storages_for(self.activities))
        for spec in self.files:
            spec.ddm_activity = spec.ddm_activity or ddm_activities("read", spec.ddmendpoint, spec.inputddms)
        group = Group(
            Direction.IN,
            self.files,
            self.tools,
            order=self._order,
            settle=self._settle,
            resolve=self._resolve,
            before=self._check_room,
            begin=self._check_disk,
            mismatch=self.suspicions.again,
        )
        try:
            transfer_group(group, self.ctx, self.token)
        finally:
            self.suspicions.declare(self.token)

    def verify_remote(self) -> None:
        """Open the files that stay where they are, unless queue or settings switch that off."""
        remote = [spec for spec in self.files if spec.status == "remote_io"]
        if not remote:
            return
        if self.ctx.settings.pilot.remotefileverification_log and self.ctx.queue.flags.remoteio_test:
            verify_remote_files(remote, self.spare, self.ctx, self.token)
            return
        logger.info("the open test of %d remote files is switched off", len(remote))
        for spec in remote:
            record_unverified(spec, self.ctx)

    # --- before the copies -------------------------------------------------------------------------------------------

    def _schemes(self, tool: CopyTool, name: str) -> list[str]:
        return ["root"] if self.ctx.use_vp else schemes_for(self.ctx, tool, name, self.activities)

    def _resolve(self, tool: CopyTool, name: str, files: Sequence[FileSpec]) -> None:
        """Look replicas up where the tool needs them, and decide on direct access."""
        if not tool.features.needs_replicas:
            return
        schemes = self._schemes(tool, name)
        self._look_up(schemes)
        for spec in files:
            wanted = wish(spec, self.ctx)
            try:
                found = candidates(spec, self.ctx, schemes, wanted.by_domain())
            except NoReplicas:
                continue  # the order of this file raises it again, as its own error
            direct, reason = decide(spec, wanted, found[0])
            if direct and not tool.features.direct_access:
                direct, reason = False, f"copytool {name} leaves no file remote"
            logger.info("input %s: %s: %s", spec.lfn, "direct access" if direct else "copied", reason)
            if direct:
                spec.surl = storage_url(spec, found[0])
                mark_remote(spec, found[0], self.ctx.environ)
                self.spare[spec.lfn] = [replica for replica in found[1:] if decide(spec, wanted, replica)[0]]

    def _look_up(self, schemes: Sequence[str]) -> None:
        """Ask once, for all files and for what any tool of the queue may use; no answer is no answer for all tools."""
        if self.no_answer is not None:
            raise self.no_answer
        queue = self.ctx.queue
        others = [queue.schemas_for(canonical_name(name), self.activities) for name in self.tools]
        try:
            wanted = [*schemes, *(scheme for found in others for scheme in found)]
            self.suspicions.doubtful |= look_up(self.files, self.ctx, wanted, self.token)
        except CancelledError:
            raise
        except PilotException as exc:
            self.no_answer = exc
            raise

    def _order(self, spec: FileSpec, tool: CopyTool, name: str) -> Transfer:
        url, endpoint, others = spec.turl, spec.ddmendpoint, tuple[Replica, ...]()
        if tool.features.needs_replicas:
            first, *rest = candidates(spec, self.ctx, self._schemes(tool, name))
            url, endpoint, others = first.url, first.endpoint, tuple(rest)
        elif tool.features.needs_protocols_in and self.ctx.input_dir is None:
            url = endpoint_url(spec, self.ctx.storage, self._schemes(tool, name), tool)
        elif tool.features.needs_protocols_in:
            url = f"file://{self.ctx.input_dir}/{deterministic_path(spec.scope, check_name(spec.lfn))}"
        base = self.job.workdir if self.ctx.final_destination else local_directory(spec, self.directory)
        order = Transfer(
            direction=Direction.IN,
            lfn=spec.lfn,
            local=base / check_name(spec.lfn),
            scope=spec.scope,
            dataset=spec.dataset,
            guid=spec.guid,
            size=spec.filesize,
            checksum=dict(spec.checksum),
            endpoint=endpoint,
            url=url,
            replicas=others,
            path=deterministic_path(spec.scope, spec.lfn),
            protocol_id=spec.protocol_id or 0,
            direct_access=wish(spec, self.ctx).anywhere,
            timeout=transfer_timeout(self.ctx.settings.transfers.stagein_timeout_base, spec.filesize),
        )
        wanted_checksum(order)  # a type that nobody here knows is no reason to start a copy (1314)
        return order

    def _check_room(self, tool: CopyTool, orders: Sequence[Transfer]) -> None:
        if tool.features.writes_locally and self.ctx.queue.maxinputsize != -1:
            check_sizes(orders, self.ctx.queue.maxwdir * MB)
            check_space(orders, self.directory, self.ctx.settings.limits.reserve_space, self.ctx.environ)

    def _check_disk(self, tool: CopyTool, order: Transfer) -> None:
        """Once more before each copy: payloads of other jobs fill the same disk."""
        if not tool.features.writes_locally or self.ctx.queue.maxinputsize == -1:
            return
        free = free_bytes(order.local.parent)
        if order.size > free:
            raise NoLocalSpace(
                f"not enough local space for {order.lfn} (need {order.size} B, but only have {free} B in "
                f"{order.local.parent})"
            )

    # --- after a copy ------------------------------------------------------------------------------------------------

    def _settle(self, spec: FileSpec, transfer: Transfer, result: TransferResult) -> None:
        spec.status = "transferred"
        spec.status_code = 0
        spec.filesize = result.size
        spec.turl = result.url
        if result.endpoint:
            spec.ddmendpoint = result.endpoint
            spec.domain = "lan" if result.endpoint in spec.inputddms else "wan"
        spec.surl = storage_url(spec, Replica(result.url, result.endpoint)) if spec.replicas else result.url
        if result.linked:
            spec.checkinputsize = False
        if not transfer.checksum:
            logger.warning("no checksum known for input %s: only its size could be verified", spec.lfn)


def check_sizes(orders: Sequence[Transfer], limit: int) -> None:
    """Compare the sum of the inputs with a limit (bytes, 0 = none).

    Raises:
        SizeTooLarge: 1168.
    """
    total = sum(order.size for order in orders)
    if limit > 0 and total > limit:
        raise SizeTooLarge(
            f"too many/too large input files ({len(orders)}). total file size={total} B > maxinputsize={limit} B "
            "(maxwdir of the queue)"
        )


def check_space(orders: Sequence[Transfer], directory: Path, reserve: int, environ: Mapping[str, str]) -> None:
    """Compare the sum of the inputs, plus a reserve for the job (bytes), with the free space.

    Args:
        orders: what is to be written.
        directory: on the disk that counts.
        reserve: bytes.
        environ: may hold the storage limit of a pod.

    Raises:
        NoLocalSpace: 1098.
    """
    total = sum(order.size for order in orders)
    free = free_space(directory, environ)
    if free is not None and total + reserve > free:
        raise NoLocalSpace(
            f"not enough local space for staging input files and run the job (need {total} B and {reserve} B of "
            f"reserve, but only have {free} B in {directory})"
        )
