"""What the message broker tells this pilot: which task to take a job of, and when to end.

Every pilot of the collaboration hears the topic, so an instruction that names a task concerns the pilots that have a
job of that task, and nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Optional

from pilot.control.lifecycle import Event
from pilot.control.messages import LookAround
from pilot.control.shutdown import StopReason
from pilot.panda.broker import SECRETS, BrokerListener, Instruction, Unavailable

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

_REMEMBERED = 100
"""Tasks that wait for their getJob; the newest are kept."""
_SIGN_OF_LIFE = 1800.0
"""Seconds between lines of the log while nothing comes: the wrapper takes a log that stands still for a stuck pilot."""
_KILLED = 1144


class Told(NamedTuple):
    """A message that a job is to be taken; ``task`` is empty when any will do."""

    task: str


class Instructions:
    """The fetcher waits here for messages; those that end something are carried out at once."""

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self._news = threading.Condition()
        self._tasks: dict[str, None] = {}
        self._links = 0
        self._down_since = time.monotonic()
        self._gone = ""
        self._said_alone = False
        broker, server = ctx.settings.message_broker, ctx.settings.server
        self._listener = BrokerListener(
            broker, topic=ctx.options.allow_same_user, login=self._login, hear=self.hear, linked=self._linked,
            gone=self._is_gone, retry=(server.retry_base, server.retry_max))

    def start(self) -> None:
        """Connect in the background."""
        self._ctx.shutdown.stopping.on_cancel(self._wake)
        self._listener.start()

    def close(self) -> None:
        """Hang up."""
        self._listener.close()

    # --- the fetcher's side -------------------------------------------------------------------------------------------

    def wait(self) -> Optional[Told]:
        """Block until a message asks for a job; None when there is nothing to wait for.

        That is: the pilot is to end, its time is over, or no broker could be reached for ``message_broker.patience`` s:
        then jobs are asked for as without the option, until a broker is back.
        """
        spoke = time.monotonic()
        with self._news:
            while not self._ctx.shutdown.stopping.cancelled:
                now = time.monotonic()
                if self._tasks:
                    task = next(iter(self._tasks))
                    del self._tasks[task]
                    return Told(task)
                if now >= self._ctx.leave_by or self._is_alone(now):
                    return None
                if now - spoke >= _SIGN_OF_LIFE:
                    spoke = now
                    logger.info("still waiting for an instruction (%d message broker(s) connected)", self._links)
                limit = min(self._ctx.leave_by, spoke + _SIGN_OF_LIFE)
                self._news.wait(max(0.0, (limit if self._links else min(limit, self._patience_ends())) - now))
        return None

    def take_back(self, told: Told) -> None:
        """The job could not be asked for yet: the message counts again."""
        self._remember(told.task)

    def _patience_ends(self) -> float:
        return self._down_since + self._ctx.settings.message_broker.patience

    def _is_alone(self, now: float) -> bool:
        """True when nobody can be expected to tell anything; says so once per outage."""
        if self._gone or (not self._links and now >= self._patience_ends()):
            if not self._said_alone and not self._gone:
                logger.warning("no message broker at %s has answered for %.0f s (message_broker.patience): jobs are "
                               "asked for without instructions until one does", self._ctx.settings.message_broker.url,
                               now - self._down_since)
            self._said_alone = True
            return True
        return False

    # --- the broker's side --------------------------------------------------------------------------------------------

    def hear(self, instruction: Instruction) -> None:
        """Remember a task to take a job of, or carry out an end."""
        if instruction.kind == "get_job":
            self._remember(instruction.task)
        elif instruction.kind == "kill_task":
            self._kill(instruction.task)
        else:
            self._finish(instruction.task)

    def _remember(self, task: str) -> None:
        with self._news:
            if task in self._tasks:
                return
            self._tasks[task] = None
            if len(self._tasks) > _REMEMBERED:
                del self._tasks[next(iter(self._tasks))]
            else:
                logger.info("message broker: take a job of task %s", task or "(any)")
            self._news.notify_all()

    def _kill(self, task: str) -> None:
        self._forget(task)
        jobs = [job for job in self._ctx.road.jobs() if not task or job.taskid == task]
        if task and not jobs:
            logger.debug("message broker: kill_task %s concerns no job here", task)
            return
        text = f"the message broker has told to kill {f'task {task}' if task else 'this pilot'}"
        self._stop(text)
        for job in jobs:
            self._ctx.road.abort(job.jobid, Event.KILL, _KILLED, text)

    def _finish(self, task: str) -> None:
        self._forget(task)
        if task and all(job.taskid != task for job in self._ctx.road.jobs()):
            logger.debug("message broker: finish_task %s concerns no job here", task)
            return
        self._stop(f"the message broker has told to finish {f'task {task}' if task else 'this pilot'}")

    def _forget(self, task: str) -> None:
        with self._news:
            self._tasks.pop(task, None)

    def _stop(self, text: str) -> None:
        self._ctx.shutdown.stop(StopReason(text))
        self._ctx.road.job_component.post(LookAround())

    def _linked(self, number: int) -> None:
        with self._news:
            if self._links and not number:
                self._down_since = time.monotonic()
            if number:
                self._said_alone = False
            self._links = number
            self._news.notify_all()

    def _is_gone(self, reason: str) -> None:
        with self._news:
            self._gone, self._links = reason, 0
            self._news.notify_all()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()

    def _login(self) -> tuple[str, str]:
        assert self._ctx.server is not None
        found = self._ctx.server.get_user_secrets(SECRETS)
        missing = [key for key in SECRETS if not found.get(key)]
        if missing:
            raise Unavailable(f"it has no {' and no '.join(missing)} for this identity: they have to be stored there")
        return found[SECRETS[0]], found[SECRETS[1]]


def listen(ctx: PilotContext) -> Optional[Instructions]:
    """Start to listen when ``--subscribe-to-msgsvc`` asks for it and jobs come from the server; else None."""
    if not ctx.options.subscribe_to_msgsvc:
        return None
    if ctx.server is None or (ctx.harvester and ctx.options.harvester_submitmode.lower() == "push"):
        logger.warning("--subscribe-to-msgsvc has no effect: this pilot does not ask the server for jobs")
        return None
    instructions = Instructions(ctx)
    instructions.start()
    return instructions
