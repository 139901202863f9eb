"""Move a group of files with the copytools of the queue, several at a time: the loop of both directions.

```
 for each tool, in the queue's order:
     files still to be moved --> candidates (replicas, doors) --> orders --> crew (threads) --> outcomes
                                                                   ^                            |
                                    next replica, or once more  <--+------- failed -------------+
     all done? --> success               what is left goes on to the next tool
 left over? --> the first cause is raised, with what came after it
```
"""

from __future__ import annotations

import logging
from typing import Iterator, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction, Features, ToolConfig
from pilot.copytool.registry import canonical_name, load_tool
from pilot.staging.attempts import Attempts
from pilot.staging.context import StagingContext
from pilot.staging.failures import Failures
from pilot.staging.group import Group
from pilot.staging.toolrun import ToolRun
from pilot.util.cancel import CancelledError, CancelToken

logger = logging.getLogger(__name__)


def transfer_group(group: Group, ctx: StagingContext, token: CancelToken) -> None:
    """Move all files of the group; returns when every one has its final status.

    Raises:
        CancelledError: the token was cancelled; running copies were broken off within about a second.
        PilotException: the cause of the first failure, after all files were tried with all tools.
    """
    failures = Failures(group.direction)
    attempts = Attempts(group.direction, ctx, log=group.is_log)
    for name in group.tools:
        remaining = [spec for spec in group.files if spec.require_transfer()]
        if not remaining or failures.has(1165):  # the output is not there: no tool can help
            break
        token.check()
        failures.next_tool()
        try:
            tool = load_tool(name, tool_config(name, group.direction, ctx), _plugins(ctx), queue=ctx.queue.name)
            ToolRun(tool, name, group, ctx, token, attempts, failures).run(remaining)
        except CancelledError:
            raise
        except PilotException as exc:
            failures.add(exc)
            logger.warning("%s with copytool %s: %s", group.direction.value, name, exc.full_text)
    left = [spec for spec in group.files if spec.require_transfer()]
    if not left:
        return
    for spec in left:
        cause = failures.of(spec)
        spec.status = "failed"
        spec.status_code = spec.status_code or (cause.code if cause else 0)
    untried = [spec for spec in left if not attempts.count(spec)]
    traced = bool(untried) and any_traced(group.tools, group.direction, ctx)
    for spec in untried:
        attempts.untried(spec, failures.of(spec), traced=traced)
    raise failures.cause(group.files, group.tools)


def tool_config(name: str, direction: Direction, ctx: StagingContext) -> ToolConfig:
    """Return what a copytool of the queue is told of its surroundings."""
    options = ctx.queue.copytool_settings(name, canonical_name(name))
    if ctx.queue.use_pcache:
        options.setdefault("use_pcache", True)
    return ToolConfig(
        options=options,
        pilot_home=ctx.pilot_home,
        launch_dir=ctx.launch_dir,
        input_dir=ctx.input_dir,
        output_dir=ctx.output_dir,
        input_destination_dir=ctx.input_destination_dir,
        final_destination=ctx.final_destination,
        checksum_type=ctx.settings.file.checksum_type,
        chunk=ctx.settings.transfers.copy_chunk,
        fsync=ctx.settings.transfers.fsync,
        workdir=ctx.workdir or ctx.pilot_home,
        environ=ctx.transfer_environment(direction is Direction.OUT),
        helpers=ctx.helpers,
        storage=ctx.storage,
        key_pair=ctx.key_pair,
        rucio_host=ctx.rucio_host,
        job_id=ctx.job_id,
        queue=ctx.queue.name,
        parallel=ctx.settings.transfers.parallel,
    )


def any_traced(tools: Sequence[str], direction: Direction, ctx: StagingContext) -> bool:
    """Return whether attempts of one of the tools are reported to Rucio; one that cannot be loaded counts as such."""
    return any(features is None or features.traced for features in _features(tools, direction, ctx))


def any_without_endpoint(tools: Sequence[str], ctx: StagingContext) -> bool:
    """Return whether one of the tools stores files without a storage endpoint (mounted file systems)."""
    return any(features and not features.needs_endpoint for features in _features(tools, Direction.OUT, ctx))


def _features(tools: Sequence[str], direction: Direction, ctx: StagingContext) -> Iterator[Optional[Features]]:
    """Yield what each tool can do, None for one that cannot be loaded."""
    for name in tools:
        try:
            yield load_tool(name, tool_config(name, direction, ctx), _plugins(ctx), queue=ctx.queue.name).features
        except PilotException:
            yield None


def _plugins(ctx: StagingContext) -> dict[str, object]:
    return dict(ctx.settings.plugins.copytools)
