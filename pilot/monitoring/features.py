"""The ends of the slot that a site announces by machine and job features.

Files come and change while a pilot runs (a shutdown is announced), so they are read again each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from pilot.monitoring.leaveby import End, from_epoch
from pilot.util.features import JOB, MACHINE, feature


def ends(environ: Mapping[str, str], started: float, began: float) -> dict[str, Optional[End]]:
    """Return the ends of the slot that the features name; None for those that they do not (any more).

    Args:
        environ: with the two variables.
        started: monotonic s of the pilot's start.
        began: epoch s of the pilot's start: the job's, where the site does not say when that was.
    """
    found: dict[str, Optional[End]] = {}
    for place, key in ((MACHINE, "shutdowntime"), (JOB, "shutdowntime_job")):
        if environ.get(place):
            epoch = feature(environ, place, key)
            at = None if epoch is None else from_epoch(epoch, started)
            found[key] = None if at is None or epoch is None else End(at, f"${place}/{key} announces {epoch:.0f}")
    if environ.get(JOB):
        found["wall_limit_secs"] = _wall_limit(environ, started, began)
    return found


def _wall_limit(environ: Mapping[str, str], started: float, began: float) -> Optional[End]:
    limit = feature(environ, JOB, "wall_limit_secs")
    if not limit:
        return None
    from_site = feature(environ, JOB, "jobstart_secs")
    at = None if from_site is None else from_epoch(from_site + limit, started)
    origin = "since jobstart_secs"
    if at is None:  # a start that cannot be meant counts as none
        at, origin = from_epoch(began + limit, started), "since the pilot's start"
    return None if at is None else End(at, f"$JOBFEATURES/wall_limit_secs is {limit:.0f} s {origin}", limit)


def notice(environ: Mapping[str, str]) -> Optional[float]:
    """Return the s that the site promises between the announcement of a shutdown and the shutdown (``grace_secs``,
    ``grace_secs_job``: the shorter one); None when it promises nothing."""
    values = [feature(environ, MACHINE, "grace_secs"), feature(environ, JOB, "grace_secs_job")]
    return min((value for value in values if value is not None), default=None)
