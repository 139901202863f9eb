"""What a pilot does beside its jobs: describes the node to the server, keeps its token fresh. No job waits for it."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from pilot.common.exception import PilotException
from pilot.control.watch.leavetime import ask_slurm, token_renewal_wanted

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)


def start_background(ctx: PilotContext) -> None:
    """Start what has to be done; nothing waits for it."""
    if ctx.experiment.sends_worker_node_map:
        _in_thread("node-map", lambda: describe_node(ctx))
    if token_renewal_wanted(ctx):
        _in_thread("token", lambda: keep_token(ctx))
    if ctx.environ.get("SLURM_JOB_ID") and not ctx.environ.get("SLURM_JOB_END_TIME"):
        _in_thread("squeue", lambda: ask_slurm(ctx))


def _in_thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def describe_node(ctx: PilotContext) -> None:
    """Write the node's description to PILOT_HOME and send it (cli-config, step 21); one attempt."""
    node = ctx.node.worker_node_map(ctx.queue.site or "", ctx.options.queue)
    names = ctx.settings.workernode
    _write(ctx.home / names.map, node)
    gpus = ctx.node.gpu_maps(ctx.queue.site or "")
    if gpus:
        _write(ctx.home / names.gpu_map, gpus[0])
    if ctx.server is None:
        return
    try:
        logger.debug("worker node: %s", ctx.server.update_worker_node(node))
        for gpu in gpus:
            logger.debug("GPUs: %s", ctx.server.update_worker_node_gpu(gpu))
    except PilotException as exc:
        logger.warning("the description of this node was not taken: %s", exc.detail)


def _write(path: Path, content: Mapping[str, object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(dict(content), indent=1), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as exc:
        logger.warning("%s was not written: %s", path, exc.strerror)


def keep_token(ctx: PilotContext) -> None:
    """Renew the token whenever less than a third of its life is left; ends with the pilot."""
    assert ctx.server is not None and ctx.credentials is not None
    while True:
        try:
            if ctx.credentials.renewal_due() and not ctx.credentials.renew_token(ctx.server, ctx.home):
                logger.info("the token is not renewed: there is no token key file (PANDA_AUTH_TOKEN_KEY)")
                return
        except PilotException as exc:
            logger.warning("the token could not be renewed (%s); the present one stays in use", exc.detail)
        if ctx.finished.wait(ctx.settings.token.download_check):
            return
