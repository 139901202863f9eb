"""Stage-out: outputs and log go to their storage; what the server is told about them is written to the FileSpecs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Sequence

from pilot.common.exception import PilotException, StageOutFailure
from pilot.copytool.base import CopyTool, Direction, Transfer, TransferResult
from pilot.copytool.registry import canonical_name
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData, log_activities, output_activities
from pilot.staging.attempts import Attempts
from pilot.staging.context import StagingContext, middleware_mode
from pilot.staging.destination import (
    ddm_activities,
    deterministic_path,
    endpoint_url,
    prepare_destinations,
    prepare_inputddms,
)
from pilot.staging.group import Group, local_directory, schemes_for, transfer_timeout
from pilot.staging.transfer import any_traced, any_without_endpoint, transfer_group
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.safepath import check_name

logger = logging.getLogger(__name__)


def stage_out(job: Job, files: list[FileSpec], ctx: StagingContext, token: CancelToken, *, log: bool) -> None:
    """Store ``files``: all outputs of a job, or its log.

    Every file is tested before the first copy: one that is missing or empty keeps all of them here. When no file could
    be stored at its endpoint and the queue or the job allows it, the alternative endpoint is tried once. A queue with
    ``container_type`` ``container:middleware`` or ``bash:middleware`` has all this done by another process.

    Args:
        job: for its work directory, label and nucleus.
        files: their ``status``, ``status_code``, ``filesize``, ``checksum``, ``surl``/``turl`` and ``ddmendpoint`` are
            what the final report needs afterwards.
        ctx: surroundings.
        token: breaks running transfers off.
        log: ``files`` is the log (which lies in the pilot's directory).

    Raises:
        PilotException: the cause of the first failure (1103, 1133, 1137, 1152, 1165, 1172, 1191, 1221, 1313, 1323,
            1333 ...), after every file was tried.
        CancelledError: the token was cancelled.
    """
    waiting = [spec for spec in files if spec.require_transfer()]
    if not waiting:
        return
    if middleware_mode(ctx):
        from pilot.staging.middleware import run_elsewhere

        run_elsewhere(job, waiting, ctx, token, direction="log" if log else "out")
    else:
        store_files(job, waiting, ctx, token, log=log)


def store_files(job: Job, files: list[FileSpec], ctx: StagingContext, token: CancelToken, *, log: bool) -> None:
    """Store ``files`` in this process; see ``stage_out``."""
    waiting = [spec for spec in files if spec.require_transfer()]
    queue = ctx.queue
    directory = ctx.pilot_home if log else job.workdir
    activities = (log_activities if log else output_activities)(queue, job.is_analysis)
    storages = queue.storages_for(activities)
    prepare_destinations(
        waiting,
        storages,
        activities,
        nucleus=job.nucleus,
        local=not storages and (ctx.output_dir is not None or any_without_endpoint(queue.all_copytools(), ctx)),
        site_of=(lambda endpoint: _site_of(endpoint, ctx)) if allow_alternative(job, queue) else _nowhere,
    )
    _check_sources(waiting, directory, activities, ctx, log=log)
    _prepare_protocol_activities(waiting, queue)
    with ctx.helpers.session():
        try:
            transfer_group(_group(job, waiting, ctx, activities, directory, log), ctx, token)
        except CancelledError:
            raise
        except PilotException as first:
            left = [spec for spec in waiting if spec.require_transfer()]
            if first.code == 1165 or not allow_alternative(job, queue) or not _swap_endpoints(left):
                raise
            logger.warning("stage-out failed (%s), second pass to the alternative endpoint", first.full_text)
            _prepare_protocol_activities(left, queue)
            _alternative(_group(job, left, ctx, activities, directory, log), first, ctx, token)


def _check_sources(
    files: Sequence[FileSpec], directory: Path, activities: Sequence[str], ctx: StagingContext, *, log: bool
) -> None:
    """Look at all files before the first copy; the first problem is raised, each one is recorded."""
    problems = []
    for spec in files:
        try:
            check_source(spec, local_directory(spec, directory))
        except PilotException as exc:
            problems.append((spec, exc))
    if problems:
        traced = any_traced(ctx.queue.copytools_for(activities), Direction.OUT, ctx)
        for spec, problem in problems:
            Attempts(Direction.OUT, ctx, log=log).untried(spec, problem, traced=traced)
        raise problems[0][1]


def _nowhere(_endpoint: str) -> str:
    """Without an alternative nobody has to load the endpoint data."""
    return ""


def _site_of(endpoint: str, ctx: StagingContext) -> str:
    """Return the site of an endpoint; one that nobody knows is in no nucleus."""
    try:
        storage = ctx.storage([endpoint]).get(endpoint)
    except PilotException as exc:
        logger.warning("the site of %s is unknown: %s", endpoint, exc.detail)
        return ""
    return (storage.site or "") if storage is not None else ""


def _alternative(group: Group, first: PilotException, ctx: StagingContext, token: CancelToken) -> None:
    """Do the second pass; when it fails, too, the first pass's cause stays the job's."""
    try:
        transfer_group(group, ctx, token)
    except CancelledError:
        raise
    except PilotException as second:
        places = ", ".join(sorted({spec.ddmendpoint for spec in group.files}))
        raise StageOutFailure(f"{first.detail}; alternative {places}: {second.detail}", code=first.code) from second
    logger.warning("Alternative stage-out for %s", [spec.lfn for spec in group.files])


def _group(
    job: Job, files: Sequence[FileSpec], ctx: StagingContext, activities: list[str], directory: Path, log: bool
) -> Group:
    queue = ctx.queue

    def order(spec: FileSpec, tool: CopyTool, name: str) -> Transfer:
        if not spec.ddmendpoint and tool.features.needs_endpoint and ctx.output_dir is None:
            raise StageOutFailure(f"no storage endpoint known for {spec.lfn}", code=1133)
        schemes = schemes_for(ctx, tool, name, activities)
        base = ctx.settings.transfers.stagein_timeout_base
        return Transfer(
            direction=Direction.OUT,
            lfn=spec.lfn,
            local=local_directory(spec, directory) / check_name(spec.lfn),
            scope=spec.scope,
            dataset=spec.dataset,
            guid=spec.guid,
            size=spec.filesize,
            checksum=dict(spec.checksum),
            endpoint=spec.ddmendpoint,
            url=_target_url(spec, tool, ctx, activities, schemes),
            path=deterministic_path(spec.scope, spec.lfn),
            protocol_id=spec.protocol_id or 0,
            is_log=log,
            timeout=transfer_timeout(base, spec.filesize),
            overwrite=_may_overwrite(ctx, name),
        )

    return Group(
        Direction.OUT, files, queue.copytools_for(activities), order, _settle,
        repeats=ctx.options.stageout_attempts, is_log=log,
    )  # fmt: skip


def _may_overwrite(ctx: StagingContext, tool: str) -> bool:
    """True when another file at the destination may be replaced: the queue's word for the tool, else the setting."""
    value = ctx.queue.copytool_settings(tool, canonical_name(tool)).get("overwrite")
    return ctx.settings.transfers.overwrite if value is None else str(value).lower() in ("true", "1", "yes")


def _target_url(
    spec: FileSpec, tool: CopyTool, ctx: StagingContext, activities: list[str], schemes: Sequence[str]
) -> str:
    """Return the storage URL, or nothing where the tool can do without.

    A tool of local files on a queue with storages (ARC uploads what it names) gets a URL when there is one, but never
    fails for want of it; without storages the endpoint data are not even asked for.
    """
    if ctx.output_dir is not None:  # the one and only protocol then (info service document 6.5)
        path = deterministic_path(spec.scope, spec.lfn)
        return f"file://{ctx.output_dir}/{path}" if tool.features.needs_protocols_out else ""
    if tool.features.needs_protocols_out:
        return endpoint_url(spec, ctx.storage, schemes, tool)
    if not tool.features.needs_endpoint and spec.ddmendpoint and ctx.queue.storages_for(activities):
        try:
            return endpoint_url(spec, ctx.storage, schemes)
        except PilotException as exc:
            logger.warning("no storage URL for %s, it stays a local file: %s", spec.lfn, exc.diagnosis)
    return ""


def _settle(spec: FileSpec, _transfer: Transfer, result: TransferResult) -> None:
    spec.status = "transferred"
    spec.status_code = 0
    spec.filesize = result.size
    spec.checksum = dict(result.checksum)
    spec.turl = spec.surl = result.url
    spec.log_url = result.log_url
    if result.endpoint:
        spec.ddmendpoint = result.endpoint


def check_source(spec: FileSpec, directory: Path) -> Path:
    """Return the path of an output after a last look at it.

    Raises:
        StageOutFailure: 1165 missing or unreadable, 1191 empty.
    """
    path = directory / check_name(spec.lfn)
    try:
        size = os.stat(path).st_size
    except OSError as exc:
        spec.status, spec.status_code = "failed", 1165
        raise StageOutFailure(
            f"output pfn file/directory does not exist: {path} ({exc.strerror or exc})", code=1165
        ) from exc
    if size == 0:
        spec.status, spec.status_code = "failed", 1191
        raise StageOutFailure(f"output file has size zero: {spec.lfn} ({path})", code=1191)
    return path


def _prepare_protocol_activities(files: Sequence[FileSpec], queue: QueueData) -> None:
    """LAN or WAN protocols of the endpoint: LAN when it is among the queue's read storages (or it has none)."""
    prepare_inputddms(files, queue.storages_for(["read_lan"]))
    for spec in files:
        spec.ddm_activity = ddm_activities("write", spec.ddmendpoint, spec.inputddms)


def allow_alternative(job: Job, queue: QueueData) -> bool:
    """True when a failed stage-out may go to another endpoint: the queue's word wins over the job's."""
    if queue.altstageout is not None:
        return queue.altstageout
    return bool(job.altstageout)


def _swap_endpoints(files: Sequence[FileSpec]) -> bool:
    """Point every file at its alternative; False (and nothing done) when one has none."""
    if not files or not all(spec.ddmendpoint_alt and spec.ddmendpoint_alt != spec.ddmendpoint for spec in files):
        return False
    for spec in files:
        spec.ddmendpoint, spec.ddmendpoint_alt = str(spec.ddmendpoint_alt), spec.ddmendpoint
        spec.is_altstaged = True
        spec.status, spec.status_code = None, 0
        spec.protocols, spec.turl = None, ""
    return True
