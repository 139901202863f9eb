"""The PanDA server as the pilot sees it: one interface, whichever of the two dialects the server speaks.

No probe is needed: the first call is made in v1, and a refusal of the path (404, 403 'is forbidden', 500 for a path
that it cannot parse) means that it left no trace and that the other dialect is to be used; that is remembered. Network
errors never switch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, TypeVar, Union

from pilot.panda import answers
from pilot.panda.answers import EventUpdateAnswer, JobAnswer, JobRequest, UpdateAnswer, Verdict
from pilot.panda.api_v1 import ApiV1
from pilot.panda.credentials import Credentials
from pilot.panda.errors import DialectMissing, ServerRefusal, TransportError
from pilot.panda.legacy import Legacy
from pilot.panda.names import REQUIRED_UPDATE, SELECTING_GETJOB, legacy_name
from pilot.panda.nodes import gpu_arguments, node_arguments
from pilot.panda.transport import Transport

if TYPE_CHECKING:
    from pilot.settings import Settings

__all__ = [
    "EventUpdateAnswer",
    "JobAnswer",
    "JobRequest",
    "PandaServer",
    "ServerRefusal",
    "TransportError",
    "UpdateAnswer",
    "Verdict",
    "user_agent",
]

logger = logging.getLogger(__name__)

Dialect = Union[ApiV1, Legacy]
Answer = TypeVar("Answer")

_BULK_IN_DOUBT = frozenset({200, 400, 403, 404, 405, 413, 500, 501})
"""HTTP statuses of a bulk update that failed and whose entries may be better off alone: somebody answers there."""

_MAX_DROPS = 8
"""Fields that one message may lose to an older server before it is given up."""


def user_agent(version: str) -> str:
    """Return the User-Agent that the server's logs know: ``pilot/<version> (Python <x.y.z>; <system> <machine>)``."""
    import os
    import sys

    system = os.uname()
    python = ".".join(str(part) for part in sys.version_info[:3])
    return f"pilot/{version} (Python {python}; {system.sysname} {system.machine})"


class PandaServer:
    """All calls of the pilot to one PanDA server; thread-safe.

    Unless a method says otherwise it raises TransportError (no usable answer: try again later) or ServerRefusal (a
    clear no). Nothing in here waits or sleeps but for the answer itself.

    Args:
        base_url: as made by ``address.base_url``.
        settings: section ``server`` (time-outs, TLS, encodings).
        credentials: the pilot's identity.
        user_agent: as made by ``user_agent``.
        dialect: ``auto``, or ``v1`` or ``legacy`` to pin one; default is the setting ``server.api``.
        harvester_id: sent with bulk updates when known.
    """

    def __init__(
        self,
        base_url: str,
        settings: Settings,
        *,
        credentials: Credentials,
        user_agent: str,
        dialect: str = "",
        harvester_id: str = "",
    ) -> None:
        server = settings.server
        wanted = dialect or server.api
        self._transport = Transport(
            base_url,
            credentials=credentials,
            user_agent=user_agent,
            connect_timeout=server.connect_timeout,
            read_timeout=server.read_timeout,
            verify_tls=server.verify_tls,
            clock_limit=settings.limits.clock_offset,
        )
        self._v1 = ApiV1(self._transport, gzip=server.gzip)
        self._legacy = Legacy(self._transport, form=server.legacy_encoding == "form")
        self._pinned = wanted != "auto"
        self._harvester_id = harvester_id
        self.dialect = wanted if self._pinned else "unknown"
        """``v1``, ``legacy``, or ``unknown`` before the first answer."""
        self._absent: set[str] = set()
        self._rejected: dict[str, frozenset[str]] = {"v1": frozenset(), "legacy": frozenset()}

    @property
    def base_url(self) -> str:
        """The base URL without a slash at its end."""
        return self._transport.base_url

    def force_ipv4(self, on: bool) -> None:
        """Use IPv4 only from now on (queue parameter ``internet_protocol_version``)."""
        self._transport.force_ipv4(on)

    def break_off(self, reason: str) -> None:
        """End the requests in flight at once; their callers get a TransportError."""
        self._transport.break_off(reason)

    def close(self) -> None:
        """Close the connections of the calling thread."""
        self._transport.close()

    # --- jobs --------------------------------------------------------------------------------------------------------

    def acquire_jobs(self, request: JobRequest) -> JobAnswer:
        """Ask for jobs.

        Raises:
            TransportError: ``maybe_processed`` says whether a job may have been given out.
        """
        message = request.message()

        def ask(dialect: Dialect) -> JobAnswer:
            for _ in range(_MAX_DROPS):
                answer = dialect.acquire_jobs(self._without_rejected(dialect, message))
                name = legacy_name(answers.rejected_name(answer.text)) if answer.status_code == answers.INVALID else ""
                if not self._learn_rejected(dialect, name, SELECTING_GETJOB, message):
                    return answer
            return answer

        return self._call(ask, core=True, refused=lambda answer: answers.is_role_text(answer.text))

    def update_job(self, message: Mapping[str, object]) -> UpdateAnswer:
        """Send one heartbeat or final report and judge the answer; never raises TransportError or ServerRefusal.

        Args:
            message: legacy names, as made by ``messages.build_update``. It is mapped, cast and cut for the dialect.

        Returns:
            The verdict; RETRY for everything that is no usable answer, REFUSED when the server does not accept who the
            pilot is.
        """
        try:
            return self._call(
                lambda dialect: self._update(dialect, message),
                core=True,
                refused=lambda answer: answer.verdict is Verdict.REFUSED and answers.is_role_text(answer.text),
            )
        except ServerRefusal as exc:
            return UpdateAnswer(Verdict.REFUSED, text=exc.detail, status_code=exc.status_code)
        except TransportError as exc:
            verdict = Verdict.RETRY_REDUCED if exc.status == 413 else Verdict.RETRY
            return UpdateAnswer(verdict, text=exc.detail)

    def update_jobs(self, messages: Sequence[Mapping[str, object]]) -> list[UpdateAnswer]:
        """Send several updates, two or more in one request; answers in the same order, as ``update_job``."""
        if len(messages) < 2:
            return [self.update_job(message) for message in messages]

        def send(dialect: Dialect) -> list[UpdateAnswer]:
            return dialect.update_jobs(
                [self._without_rejected(dialect, message) for message in messages], self._harvester_id
            )

        try:
            results = self._call(send)
        except TransportError as exc:
            if exc.status not in _BULK_IN_DOUBT:
                return [UpdateAnswer(Verdict.RETRY, text=exc.detail)] * len(messages)
            # One bad entry can bring down the whole list, the list may be too long for a gate, and a control tower or
            # an older server may not know this call at all: send them singly (updates may be repeated).
            return [self.update_job(message) for message in messages]
        except ServerRefusal:
            return [self.update_job(message) for message in messages]
        singly = (Verdict.DROP_FIELD, Verdict.REFUSED)
        return [
            self.update_job(message) if result.verdict in singly else result
            for message, result in zip(messages, results)
        ]

    def _update(self, dialect: Dialect, message: Mapping[str, object]) -> UpdateAnswer:
        for _ in range(_MAX_DROPS):
            answer = dialect.update_job(self._without_rejected(dialect, message))
            if answer.verdict is not Verdict.DROP_FIELD:
                return answer
            if not self._learn_rejected(dialect, answer.drop_field, REQUIRED_UPDATE, message):
                break
        return replace(answer, verdict=Verdict.INVALID)

    def job_status(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return state and attempt number by PandaID; jobs that the server does not know are ``not found``."""
        return self._call(lambda dialect: dialect.job_status(ids)) if ids else {}

    def set_debug_mode(self, job_id: str, on: bool) -> bool:
        """Switch the server's debug flag of a job; True when it was accepted."""
        return self._call(lambda dialect: dialect.set_debug_mode(job_id, on))

    # --- worker ------------------------------------------------------------------------------------------------------

    def update_worker_status(
        self, worker_id: str, harvester_id: str, status: str, *, site: str = "", node: str = ""
    ) -> None:
        """Report that the worker's pilot ``started`` or ``finished``."""
        self._call(lambda dialect: dialect.update_worker_status(worker_id, harvester_id, status, site, node))

    def update_worker_node(self, description: Mapping[str, object]) -> str:
        """Describe the node (keys of server-api.md 8.3); returns the server's message, "" where only legacy exists."""
        return self._describe(lambda dialect: dialect.update_worker_node(node_arguments(description)))

    def update_worker_node_gpu(self, description: Mapping[str, object]) -> str:
        """Describe the node's GPUs (keys of 8.4); returns the server's message, "" where only legacy exists."""
        return self._describe(lambda dialect: dialect.update_worker_node_gpu(gpu_arguments(description)))

    def _describe(self, operation: Callable[[Dialect], str]) -> str:
        # v1 only, whatever is remembered or pinned for jobs: the reference, too, mixes the dialects here.
        if "v1" in self._absent:
            return ""
        try:
            return operation(self._v1)
        except DialectMissing:
            return ""

    def resource_types(self) -> list[dict[str, object]]:
        """Return the resource types: resource_name, min/maxcore, min/maxrampercore (MB; None = open)."""
        return self._call(lambda dialect: dialect.resource_types())

    def is_alive(self) -> bool:
        """Return True when the server answers as it should; needs no credentials."""
        return self._call(lambda dialect: dialect.is_alive())

    # --- credentials -------------------------------------------------------------------------------------------------

    def get_proxy(self, role: str, dn: str = "") -> str:
        """Return a proxy (PEM) for ``role``; keep it with ``credentials.store_user_proxy``, never log it."""
        return _secret(self._call(lambda dialect: dialect.get_proxy(role, dn)))

    def get_key_pair(self, public_name: str, private_name: str) -> tuple[str, str]:
        """Return the values of an object store's keys by their names."""
        public, private = self._call(lambda dialect: dialect.get_key_pair(public_name, private_name))
        return _secret(public), _secret(private)

    def get_access_token(self, client_name: str, token_key: str) -> str:
        """Return a new OIDC token."""
        return _secret(self._call(lambda dialect: dialect.get_access_token(client_name, token_key)))

    def get_token_key(self, client_name: str) -> str:
        """Return the key that ``get_access_token`` wants."""
        return _secret(self._call(lambda dialect: dialect.get_token_key(client_name)))

    def get_user_secrets(self, keys: Sequence[str]) -> dict[str, str]:
        """Return secrets by key (message broker)."""
        found = self._call(lambda dialect: dialect.get_user_secrets(keys))
        return {key: _secret(value) for key, value in found.items()}

    # --- events ------------------------------------------------------------------------------------------------------

    def acquire_event_ranges(
        self,
        job_id: str,
        jobset_id: str,
        task_id: str = "",
        *,
        n_ranges: int = 10,
        scattered: bool = False,
        segment_id: int | None = None,
    ) -> list[dict[str, object]]:
        """Return event ranges (keys of server-api.md 9.1); an empty list means that there are no more: finish."""
        request: dict[str, object] = {"job_id": int(job_id), "jobset_id": int(jobset_id), "n_ranges": n_ranges}
        if task_id:
            request["task_id"] = int(task_id)
        if scattered:
            request["scattered"] = True
        if segment_id is not None:
            request["segment_id"] = segment_id
        return self._call(lambda dialect: dialect.acquire_event_ranges(request))

    def update_event_ranges(self, ranges: Sequence[Mapping[str, object]], version: int = 0) -> EventUpdateAnswer:
        """Report on event ranges, items of version 0 or 1 (server-api.md 9.2)."""
        text = json.dumps(list(ranges), allow_nan=False)
        return self._call(lambda dialect: dialect.update_event_ranges(text, version))

    def event_range_count(self, job_id: str, jobset_id: str, task_id: str) -> int:
        """Return how many event ranges wait for this job."""
        return self._call(lambda dialect: dialect.event_range_count(job_id, jobset_id, task_id))

    def event_range_statuses(self, ids: Sequence[Mapping[str, int]]) -> dict[str, dict[str, dict[str, object]]]:
        """Return by PandaID and range: status, error, dialog; ``ids`` are ``{"task_id": .., "panda_id": ..}``."""
        return self._call(lambda dialect: dialect.event_range_statuses(ids))

    # --- choice of the dialect ---------------------------------------------------------------------------------------

    def _call(
        self,
        operation: Callable[[Dialect], Answer],
        *,
        core: bool = False,
        refused: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        """Run ``operation`` in the remembered dialect, else v1, and in the other one where the first is missing.

        ``core`` calls (getJob, updateJob) decide what is remembered: another call may be missing on its own.
        ``refused`` tells a refusal for the lack of a role, which legacy on servers 0.6 to 0.8 may not share.
        """
        first: Dialect = self._legacy if self.dialect == "legacy" else self._v1
        try:
            answer = operation(first)
        except DialectMissing as exc:
            return self._other(first, operation, exc, core)
        if (
            not self._pinned
            and first is self._v1
            and refused is not None
            and refused(answer)
            and "legacy" not in self._absent
        ):
            return self._with_legacy_role(operation, answer, refused)
        self._remember(first, only_if_unknown=True)
        return answer

    def _other(self, first: Dialect, operation: Callable[[Dialect], Answer], exc: DialectMissing, core: bool) -> Answer:
        known = self.dialect == first.name
        if self._pinned:
            raise ServerRefusal(
                f"the server does not have the {first.name} API, which is pinned (server.api): {exc}"
            ) from exc
        if known and exc.status == 500:
            # A server that has spoken this dialect fell over something else.
            raise TransportError(str(exc), status=500) from exc
        second: Dialect = self._legacy if first is self._v1 else self._v1
        try:
            answer = operation(second)
        except DialectMissing as other:
            raise TransportError(
                f"{self.base_url} has neither API of a PanDA server: {exc}; {other}",
                maybe_processed=False,
                status=other.status or exc.status,
            ) from other
        if core:
            self._absent.add(first.name)
            self._remember(second)
        return answer

    def _with_legacy_role(
        self, operation: Callable[[Dialect], Answer], answer: Answer, refused: Callable[[Answer], bool]
    ) -> Answer:
        try:
            second = operation(self._legacy)
        except DialectMissing:
            self._absent.add("legacy")
            return answer
        except (TransportError, ServerRefusal):
            return answer
        if refused(second):
            return answer
        logger.info("v1 refuses this identity for its role, the legacy API accepts it")
        self._remember(self._legacy)
        return second

    def _remember(self, dialect: Dialect, *, only_if_unknown: bool = False) -> None:
        if self._pinned or self.dialect == dialect.name or (only_if_unknown and self.dialect != "unknown"):
            return
        self.dialect = dialect.name
        logger.info("the server %s speaks the %s API", self.base_url, dialect.name)

    # --- names that an older server does not take --------------------------------------------------------------------

    def _without_rejected(self, dialect: Dialect, message: Mapping[str, object]) -> Mapping[str, object]:
        rejected = self._rejected[dialect.name]
        return {name: value for name, value in message.items() if name not in rejected} if rejected else message

    def _learn_rejected(
        self, dialect: Dialect, name: str, needed: frozenset[str], message: Mapping[str, object]
    ) -> bool:
        """Remember that the server does not take ``name``; False when it cannot be left out (or was not sent)."""
        rejected = self._rejected[dialect.name]
        if not name or name in needed or name in rejected or name not in message:
            return False
        logger.warning("the server does not take the field %s: not sent any more", name)
        self._rejected[dialect.name] = rejected | {name}
        return True


def _secret(value: str) -> str:
    from pilot.util.redact import register_secret

    register_secret(value)
    return value
