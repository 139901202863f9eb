"""The v1 dialect: ``/api/v1/<module>/<method>``, typed JSON in, ``{"success", "message", "data"}`` out.

Types are enforced (a number sent as text loses the message), unknown names refuse the call, and HTTP is 200 for nearly
all failures. The newest servers have nothing else.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pilot.panda import answers
from pilot.panda.answers import EventUpdateAnswer, JobAnswer, UpdateAnswer, judge
from pilot.panda.errors import ServerRefusal, TransportError
from pilot.panda.names import FINAL_STATES, GETJOB_FIELDS, UPDATE_FIELDS, legacy_name
from pilot.panda.transport import Params, Reply, Transport, excerpt
from pilot.panda.values import to_v1

logger = logging.getLogger(__name__)

_GZIP_FROM = 1024
"""Smaller bodies (bytes) go plain: they fit into one packet anyway."""


class Envelope(NamedTuple):
    """The answer of every v1 call."""

    success: bool
    message: str
    data: object


def gzip_bytes(body: bytes) -> bytes:
    """Return ``body`` in gzip form (zlib only: the gzip module would be one more import)."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


class ApiV1:
    """All calls of the pilot in the v1 dialect.

    Every method raises TransportError (no usable answer), DialectMissing (not on this server) or ServerRefusal (a
    clear no), unless it says otherwise.
    """

    name = "v1"

    def __init__(self, transport: Transport, *, gzip: bool = True) -> None:
        self._transport = transport
        self._gzip = gzip

    # --- jobs --------------------------------------------------------------------------------------------------------

    def acquire_jobs(self, message: Mapping[str, object]) -> JobAnswer:
        """Ask for jobs; ``message`` has legacy names. A refusal is a JobAnswer, not an exception."""
        try:
            envelope = self._post("pilot/acquire_jobs", to_v1(GETJOB_FIELDS, message))
        except ServerRefusal as exc:
            return JobAnswer(answers.ROLE, text=exc.detail, permanent=True)
        data, text = envelope.data, envelope.message
        if envelope.success and isinstance(data, dict):
            jobs = data.get("jobs")
            code = answers.status_code_of(data)
            if code == answers.OK and isinstance(jobs, list):
                return JobAnswer(answers.OK, tuple(job for job in jobs if isinstance(job, dict)), text)
            if code is not None:
                return JobAnswer(code, text=text, permanent=code in answers.PERMANENT_CODES)
        if envelope.success:
            raise TransportError(f"acquire_jobs: the answer holds neither jobs nor a StatusCode: {excerpt(str(data))}")
        code = _code_of_message(text)
        return JobAnswer(code, text=text, permanent=code in answers.PERMANENT_CODES)

    def update_job(self, message: Mapping[str, object]) -> UpdateAnswer:
        """Send a heartbeat or final report."""
        envelope = self._post("pilot/update_job", to_v1(UPDATE_FIELDS, message))
        return _judged(envelope, message)

    def update_jobs(self, messages: Sequence[Mapping[str, object]], harvester_id: str) -> list[UpdateAnswer]:
        """Send several updates in one request; answers in the same order."""
        arguments: dict[str, object] = {"job_list": [to_v1(UPDATE_FIELDS, message) for message in messages]}
        if harvester_id:
            arguments["harvester_id"] = harvester_id
        envelope = self._success(self._post("pilot/update_jobs_bulk", arguments), "update_jobs_bulk")
        items = envelope.data
        if not isinstance(items, list) or len(items) != len(messages):
            raise TransportError(
                f"update_jobs_bulk: {len(messages)} answers expected: {excerpt(str(items))}", status=200
            )
        return [_judged(_envelope_of(item, "update_jobs_bulk"), message) for item, message in zip(items, messages)]

    def job_status(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return state and attempt number per PandaID; unknown jobs are ``not found``."""
        envelope = self._success(self._get("pilot/get_job_status", [("job_ids", i) for i in ids]), "get_job_status")
        items = envelope.data if isinstance(envelope.data, list) else []
        return {
            str(item.get("job_id")): (
                str(item.get("status")),
                answers.integer_of(item.get("attempt_number") or 0, "get_job_status"),
            )
            for item in items
            if isinstance(item, dict)
        }

    def set_debug_mode(self, job_id: str, on: bool) -> bool:
        """Switch the server's debug flag of a job. Its ``success`` is inverted (recorded), the message counts."""
        return self._post("job/set_debug_mode", {"job_id": int(job_id), "mode": on}).message == "Succeeded"

    # --- worker ------------------------------------------------------------------------------------------------------

    def update_worker_status(self, worker_id: str, harvester_id: str, status: str, site: str, node: str) -> None:
        """Report ``started`` or ``finished``; ``site`` is unknown to v1 and not sent."""
        arguments = {"worker_id": worker_id, "harvester_id": harvester_id, "status": status, "node_id": node}
        self._success(self._post("pilot/update_worker_status", arguments), "update_worker_status")

    def update_worker_node(self, description: Mapping[str, object]) -> str:
        """Describe the node; returns the server's message."""
        return self._success(self._post("pilot/update_worker_node", description), "update_worker_node").message

    def update_worker_node_gpu(self, description: Mapping[str, object]) -> str:
        """Describe the node's GPUs; returns the server's message. A second pilot doing the same is no failure."""
        envelope = self._post("pilot/update_worker_node_gpu", description)
        if not envelope.success and "Another pilot was updating" in envelope.message:
            return envelope.message
        return self._success(envelope, "update_worker_node_gpu").message

    def resource_types(self) -> list[dict[str, object]]:
        """Return the resource types; MB per core, None = no bound."""
        data = self._success(self._get("metaconfig/get_resource_types"), "get_resource_types").data
        return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def is_alive(self) -> bool:
        """Return True when the server answers properly; works without credentials."""
        return self._get("system/is_alive").success

    # --- credentials -------------------------------------------------------------------------------------------------

    def get_proxy(self, role: str, dn: str) -> str:
        """Return a proxy (PEM)."""
        return self._secret("get_proxy", [("role", role), *([("dn", dn)] if dn else [])], "user_proxy")[0]

    def get_access_token(self, client_name: str, token_key: str) -> str:
        """Return a new OIDC token."""
        return self._secret("get_access_token", [("client_name", client_name), ("token_key", token_key)], "user_proxy")[
            0
        ]

    def get_token_key(self, client_name: str) -> str:
        """Return the key that get_access_token wants."""
        return self._secret("get_token_key", [("client_name", client_name)], "token_key", "tokenKey")[0]

    def get_key_pair(self, public_name: str, private_name: str) -> tuple[str, str]:
        """Return the values of a pair of keys of an object store."""
        params = [("public_key_name", public_name), ("private_key_name", private_name)]
        data = self._success(self._get("creds/get_key_pair", params), "get_key_pair").data
        if not isinstance(data, dict) or "public_key" not in data or "private_key" not in data:
            raise TransportError("get_key_pair: the answer holds no keys")
        return str(data["public_key"]), str(data["private_key"])

    def get_user_secrets(self, keys: Sequence[str]) -> dict[str, str]:
        """Return secrets by key; v1 sends them as a JSON text."""
        data = self._success(
            self._get("creds/get_user_secrets", [("keys", key) for key in keys]), "get_user_secrets"
        ).data
        return answers.secrets_of(data)

    def _secret(self, method: str, params: Params, *names: str) -> list[str]:
        data = self._success(self._get(f"creds/{method}", params), method).data
        found = [str(data[name]) for name in names if data.get(name)] if isinstance(data, dict) else []
        if isinstance(data, str) and data:
            found = [data]
        if not found:
            # Never an excerpt of this answer: it may hold what was asked for under another name.
            raise TransportError(f"{method}: the answer does not hold {names[0]}")
        return found

    # --- events ------------------------------------------------------------------------------------------------------

    def acquire_event_ranges(self, request: Mapping[str, object]) -> list[dict[str, object]]:
        """Return event ranges; an empty list means that there are no more. ``request`` has v1 names and types."""
        data = self._success(self._post("event/acquire_event_ranges", request), "acquire_event_ranges").data
        return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def update_event_ranges(self, ranges_text: str, version: int) -> EventUpdateAnswer:
        """Report on event ranges; ``ranges_text`` is JSON. A 500 means 'unknown', see EventUpdateAnswer."""
        try:
            envelope = self._post("event/update_event_ranges", {"event_ranges": ranges_text, "version": version})
        except TransportError as exc:
            if exc.status == 500:
                logger.warning("%s; the server may have stored it all the same", exc.detail)
                return EventUpdateAnswer(unknown=True)
            raise
        return answers.event_answer(self._success(envelope, "update_event_ranges").data)

    def event_range_count(self, job_id: str, jobset_id: str, task_id: str) -> int:
        """Return how many event ranges wait."""
        params = [("job_id", job_id), ("jobset_id", jobset_id), ("task_id", task_id)]
        data = self._success(
            self._get("event/get_available_event_range_count", params), "get_available_event_range_count"
        ).data
        return answers.integer_of(data, "get_available_event_range_count")

    def event_range_statuses(self, ids: Sequence[Mapping[str, int]]) -> dict[str, dict[str, dict[str, object]]]:
        """Return status, error and dialog per range and PandaID; ``ids`` has task_id and panda_id."""
        params = [("job_task_ids", json.dumps(list(ids)))]
        data = self._success(self._get("event/get_event_range_statuses", params), "get_event_range_statuses").data
        return data if isinstance(data, dict) else {}

    # --- wire --------------------------------------------------------------------------------------------------------

    def _post(self, path: str, arguments: Mapping[str, object]) -> Envelope:
        body = json.dumps(arguments, allow_nan=False).encode("ascii")
        gzipped = self._gzip and len(body) >= _GZIP_FROM
        payload = gzip_bytes(body) if gzipped else body
        return _parsed(self._transport.post(f"/api/v1/{path}", payload, "application/json", gzipped=gzipped), path)

    def _get(self, path: str, params: Params = ()) -> Envelope:
        return _parsed(self._transport.get(f"/api/v1/{path}", params), path)

    @staticmethod
    def _success(envelope: Envelope, what: str) -> Envelope:
        if envelope.success:
            return envelope
        if envelope.message in _TEMPORARY:
            raise TransportError(f"{what}: {excerpt(envelope.message)}")
        raise ServerRefusal(f"{what}: {envelope.message[:300]}", status_code=_code_of_message(envelope.message))


_TEMPORARY = frozenset({"Timed out", "TimeOut", "Database error", "database error in the PanDA server"})


def _code_of_message(text: str) -> int:
    """Return the StatusCode that stands for the message of a failed call."""
    if text == "No jobs in PanDA":
        return answers.NO_JOBS
    if text in ("Timed out", "TimeOut"):
        return answers.TIMEOUT
    if answers.is_identity_text(text):
        return answers.ROLE
    if text.startswith(("Argument error", "Type error", "expecting ")):
        return answers.INVALID
    return answers.FAILED


def _parsed(reply: Reply, path: str) -> Envelope:
    answers.check_http(reply, f"/api/v1/{path}")
    try:
        return _envelope_of(answers.parse_json(reply.text), path)
    except ValueError:
        raise answers.unreadable(reply, f"/api/v1/{path}") from None


def _envelope_of(value: object, path: str) -> Envelope:
    if not isinstance(value, dict) or not isinstance(value.get("success"), bool):
        raise TransportError(f"/api/v1/{path}: no answer of the PanDA server: {excerpt(str(value))}", status=200)
    data = value.get("data")
    if not isinstance(data, dict) and "StatusCode" in value:
        data = value  # flat, as legacy answers are: a kill must not be missed for its place (incident a)
    return Envelope(value["success"], str(value.get("message") or ""), data)


def _judged(envelope: Envelope, message: Mapping[str, object]) -> UpdateAnswer:
    data = envelope.data if isinstance(envelope.data, dict) else {}
    code = answers.status_code_of(data)
    final = message.get("state") in FINAL_STATES
    if code == answers.OK and not envelope.success:
        code = None
    # `success` may be true beside StatusCode 30 and "Database error" (recorded): both must be good.
    rejected = "" if envelope.success else legacy_name(answers.rejected_name(envelope.message))
    return judge(
        code,
        envelope.message,
        final=final,
        command=data.get("command"),
        secrets=data.get("pilotSecrets"),
        rejected=rejected,
    )
