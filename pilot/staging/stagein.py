"""Stage-in: inputs come to the work directory, each one verified, and the catalogue tells where they are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Sequence

from pilot.common.exception import NoLocalSpace, SizeTooLarge, StageInFailure
from pilot.copytool.base import CopyTool, Direction, Transfer, TransferResult
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import stagein_activities
from pilot.staging.catalog import write_catalog
from pilot.staging.context import StagingContext
from pilot.staging.destination import ddm_activities, deterministic_path, endpoint_url, prepare_inputddms
from pilot.staging.transfer import Group, local_directory, transfer_group, transfer_timeout
from pilot.util.cancel import CancelToken
from pilot.util.copying import free_bytes
from pilot.util.safepath import check_name

logger = logging.getLogger(__name__)

_NEVER_DIRECT = (".tar.gz", ".lib.tgz", ".raw.")
MB = 1024 * 1024


def stage_in(job: Job, ctx: StagingContext, token: CancelToken) -> None:
    """Bring all inputs that still need it, then write PoolFileCatalog.xml; each FileSpec gets its status.

    Args:
        job: its ``indata`` and ``workdir``; ``checkinputsize`` of linked files becomes False.
        ctx: surroundings.
        token: breaks running transfers off.

    Raises:
        PilotException: the cause of the first failure (1098, 1099, 1145, 1151, 1168, 1171, 1323, 1331, 1341, 1342,
            1366 ...), after every file was tried.
        CancelledError: the token was cancelled.
    """
    if ctx.options.executor_type == "raythena":  # the driver of the job brings the files
        for spec in job.indata:
            spec.status = "no_transfer"
    files = [spec for spec in job.indata if spec.require_transfer()]
    if files:
        _transfer(job, files, ctx, token)
    if job.indata:
        write_catalog(job.indata, job.workdir)


def _transfer(job: Job, files: list[FileSpec], ctx: StagingContext, token: CancelToken) -> None:
    queue = ctx.queue
    directory = ctx.input_destination_dir or job.workdir
    if not directory.is_dir():
        raise StageInFailure(f"work directory {directory} does not exist")
    activities = stagein_activities(queue, job.is_analysis)
    prepare_inputddms(files, queue.storages_for(activities))
    for spec in files:
        spec.ddm_activity = spec.ddm_activity or ddm_activities("read", spec.ddmendpoint, spec.inputddms)
    tools = queue.copytools_for(activities)
    final = ctx.final_destination

    def order(spec: FileSpec, tool: CopyTool, name: str) -> Transfer:
        url = spec.turl
        if tool.features.needs_protocols_in:
            schemes = queue.schemas_for(name, activities) or list(tool.features.schemes)
            url = endpoint_url(spec, ctx.storage, schemes)
        base = job.workdir if final else local_directory(spec, directory)
        return Transfer(
            direction=Direction.IN,
            lfn=spec.lfn,
            local=base / check_name(spec.lfn),
            scope=spec.scope,
            dataset=spec.dataset,
            guid=spec.guid,
            size=spec.filesize,
            checksum=dict(spec.checksum),
            endpoint=spec.ddmendpoint,
            url=url,
            path=deterministic_path(spec.scope, spec.lfn),
            direct_access=wants_direct_access(spec, ctx),
            timeout=transfer_timeout(ctx.settings.transfers.stagein_timeout_base, spec.filesize),
        )

    def before(tool: CopyTool, orders: Sequence[Transfer]) -> None:
        if tool.features.writes_locally and queue.maxinputsize != -1:
            check_sizes(orders, queue.maxwdir)
        if tool.features.writes_locally:
            check_space(orders, directory, ctx.settings.limits.reserve_space)

    transfer_group(Group(Direction.IN, files, tools, order, _settle, before), ctx, token)


def _settle(spec: FileSpec, transfer: Transfer, result: TransferResult) -> None:
    spec.status = "transferred"
    spec.status_code = 0
    spec.filesize = result.size
    spec.surl = result.url
    spec.turl = spec.turl or result.url
    if result.endpoint:
        spec.ddmendpoint = result.endpoint
    if result.linked:
        spec.checkinputsize = False
    if not transfer.checksum:
        logger.warning("no checksum known for input %s: only its size could be verified", spec.lfn)


def wants_direct_access(spec: FileSpec, ctx: StagingContext) -> bool:
    """True when queue and job ask for this input to be opened where it is (data management document 5.1)."""
    if spec.accessmode != "direct":
        return False
    name = spec.lfn.lower()
    if name.startswith("raw.") or any(part in name for part in _NEVER_DIRECT):
        return False
    queue = ctx.queue
    lan = spec.direct_access_lan or queue.direct_access_lan
    wan = spec.direct_access_wan or queue.direct_access_wan
    return lan or wan


def check_sizes(orders: Sequence[Transfer], maxwdir: int) -> None:
    """Compare the sum of the inputs with the queue's ``maxwdir`` (MB, 0 = no limit).

    Raises:
        SizeTooLarge: 1168.
    """
    total, limit = sum(order.size for order in orders), maxwdir * MB
    if limit > 0 and total > limit:
        raise SizeTooLarge(
            f"too many/too large input files ({len(orders)}). total file size={total} B > maxinputsize={limit} B "
            "(maxwdir of the queue)"
        )


def check_space(orders: Sequence[Transfer], directory: Path, reserve: int) -> None:
    """Compare the sum of the inputs, plus a reserve for the job (bytes), with the free space.

    Raises:
        NoLocalSpace: 1098.
    """
    total = sum(order.size for order in orders)
    free = free_bytes(directory)
    if total + reserve > free:
        raise NoLocalSpace(
            f"not enough local space for staging input files and run the job (need {total} B and {reserve} B of "
            f"reserve, but only have {free} B in {directory})"
        )
