"""The queue's description: found, and does it take jobs?"""

from __future__ import annotations

from collections.abc import Iterator

from pilot.common.exception import PilotException
from pilot.workflow.checks.base import Finding, Scene, fail, ok, skip


def queue(scene: Scene) -> Iterator[Finding]:
    """Load the description, for the other checks, too."""
    name = scene.options.queue
    if not name or scene.info is None:
        scene.set_queue(None)
        yield skip("queue", "none given (-q): what depends on it is not looked at")
        return
    try:
        found = scene.info.load_queue(name)
    except PilotException as exc:
        scene.set_queue(None)
        yield fail("queue", exc.code, exc.detail, "look at -q, and at --queuedata-url or the server's cache")
        return
    except BaseException:
        scene.set_queue(None)  # the others must not wait for it
        raise
    scene.set_queue(found)
    refusal = found.refusal()
    if refusal:
        yield fail("queue", *refusal, "set it ACTIVE and online in CRIC, if that is wanted")
    else:
        yield ok("queue", f"{found.name}: {found.state}, {found.status}, {found.corecount} cores, maxrss "
                          f"{found.maxrss or '-'} MB, maxtime {found.maxtime or '-'} s")
