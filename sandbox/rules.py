"""What the server does with a state that a pilot reports (server-api.md 7.2), as a pure function.

    sent --starting--> starting --running--> running --finished|failed--> holding --adder--> finished | failed | ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Optional

ARCHIVED_STATES = ("finished", "failed", "cancelled", "closed")
PILOT_STATES = ("starting", "running", "holding", "transferring", "finished", "failed")
FINAL_STATES = ("finished", "failed")

Effect = Literal["store", "ignore", "alreadydone", "tobekilled"]


@dataclass(frozen=True)
class Verdict:
    """What happens to an update.

    effect: store the message; ignore it (normal answer); or answer only, with the given command.
    state: the job's new state when stored.
    """

    effect: Effect
    state: str = ""


def judge(
    *, state: str, archived: bool, final_accepted: bool, by_pilot: bool, attempt_nr: int,
    asked: str, asked_attempt: Optional[int],
) -> Verdict:
    """Verdict for one update.

    state, archived, attempt_nr: of the job.  final_accepted: a final message was accepted before.
    by_pilot: holding/transferring was set by a pilot's message.  asked, asked_attempt: of the message.
    """
    if archived or (asked_attempt is not None and asked_attempt != attempt_nr):
        return Verdict("tobekilled")
    if state == "merging":
        return Verdict("ignore")
    if asked in FINAL_STATES:
        if state == "holding" and final_accepted:
            return Verdict("alreadydone")
        if state == "transferring" and not by_pilot:
            return Verdict("alreadydone")
        return Verdict("store", "holding")
    if state == "failed":
        return Verdict("alreadydone")
    if state == "holding":
        # a late heartbeat, holding again, or holding -> transferring, which the server refuses silently
        return Verdict("ignore")
    if state == "transferring":
        stays = asked == "transferring" or (asked == "holding" and by_pilot)
        return Verdict("store", asked) if stays else Verdict("ignore")
    if state == "running" and asked == "starting":
        return Verdict("store", "running")
    return Verdict("store", asked)


_PLAIN_NUMBER = re.compile(r"\d[\d.]*\d$")


def batch_ids_clash(stored: Optional[str], sent: Optional[str]) -> bool:
    """True when the batch id guard refuses the update (server-api.md 6.3; recorded: StatusCode 30)."""
    if not stored or not sent or stored == sent:
        return False
    return not _PLAIN_NUMBER.match(stored) and not _PLAIN_NUMBER.match(sent)


# Time limits in seconds (server-api.md 7.3).
SENT_LIMIT = 30 * 60
HEARTBEAT_LIMIT = 2 * 3600
HOLDING_LIMIT_SHORT = 3 * 3600
HOLDING_LIMIT = 48 * 3600


@dataclass(frozen=True)
class Expiry:
    """Why the server gives a job up: jobDispatcherErrorCode and its text."""

    code: int
    diag: str


def expiry(
    *, state: str, idle: float, label: str, priority: int, by_pilot: bool, has_diag: bool, last: str,
) -> Optional[Expiry]:
    """The verdict of the server's watcher on a job idle for ``idle`` seconds, None while it may live on.

    last: text of the time of the last message.  has_diag: an error diagnosis was reported before.
    """
    if state == "sent" and idle > SENT_LIMIT:
        return Expiry(102, "Sent job didn't receive reply from pilot within 30 min")
    user = label in ("user", "panda")
    if state in ("starting", "running", "stagein", "stageout"):
        limit, found = HEARTBEAT_LIMIT, Expiry(100, f"lost heartbeat : {last}")
    elif state == "holding":
        limit = HOLDING_LIMIT_SHORT if user or priority > 800 else HOLDING_LIMIT
        found = Expiry(103, f"timeout in holding : last heartbeat at {last}")
    elif state == "transferring" and (by_pilot or user):
        limit, found = HEARTBEAT_LIMIT, Expiry(104, f"timeout in transferring : last heartbeat at {last}")
    else:
        return None
    if idle <= limit:
        return None
    return Expiry(101, f"job recovery failed for {limit // 3600} hours") if has_diag else found
