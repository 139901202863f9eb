"""The legacy dialect: ``/server/panda/<method>``, form or gzipped JSON in, JSON or URL-encoded text out.

The server gunzips every JSON body without looking at Content-Encoding, and one that is not gzip kills its process. An
unknown name ends in HTTP 500. Servers from 1.0 on have nothing of this left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from pilot.panda import answers
from pilot.panda.answers import EventUpdateAnswer, JobAnswer, UpdateAnswer, judge
from pilot.panda.api_v1 import gzip_bytes
from pilot.panda.errors import DialectMissing, ServerRefusal, TransportError
from pilot.panda.names import FINAL_STATES, GETJOB_FIELDS, UPDATE_FIELDS
from pilot.panda.transport import Reply, Transport, excerpt
from pilot.panda.values import to_legacy


class Legacy:
    """All calls of the pilot in the legacy dialect; arguments, results and exceptions as in ``ApiV1``."""

    name = "legacy"

    def __init__(self, transport: Transport, *, form: bool = False) -> None:
        self._transport = transport
        self._form = form

    # --- jobs --------------------------------------------------------------------------------------------------------

    def acquire_jobs(self, message: Mapping[str, object]) -> JobAnswer:
        """Ask for jobs; ``message`` has legacy names. A refusal is a JobAnswer, not an exception."""
        reply = self._post("getJob", to_legacy(GETJOB_FIELDS, message))
        rejected = _rejected(reply)
        if rejected:
            return JobAnswer(answers.INVALID, text=reply.text[:300], permanent=True)
        try:
            values = self._values(reply, "getJob")
        except ServerRefusal as exc:
            return JobAnswer(exc.status_code, text=exc.detail, permanent=True)
        code = answers.status_code_of(values)
        text = str(values.get("errorDialog") or values.get("errorDiag") or "")
        if code != answers.OK:
            assert code is not None
            return JobAnswer(code, text=text or f"StatusCode {code}", permanent=code in answers.PERMANENT_CODES)
        jobs = _jobs(values)
        if not jobs:
            raise TransportError("getJob: StatusCode 0, but the answer holds no job")
        return JobAnswer(answers.OK, jobs, text)

    def update_job(self, message: Mapping[str, object]) -> UpdateAnswer:
        """Send a heartbeat or final report."""
        reply = self._post("updateJob", to_legacy(UPDATE_FIELDS, message))
        rejected = _rejected(reply)
        if rejected:
            return judge(None, reply.text[:300], final=False, rejected=rejected)
        return _judged(self._values(reply, "updateJob"), message)

    def update_jobs(self, messages: Sequence[Mapping[str, object]], harvester_id: str) -> list[UpdateAnswer]:
        """Send several updates in one request; answers in the same order."""
        arguments = {
            "jobList": json.dumps([to_legacy(UPDATE_FIELDS, message) for message in messages], allow_nan=False)
        }
        if harvester_id:
            arguments["harvester_id"] = harvester_id
        reply = self._post("updateJobsInBulk", arguments)
        answers.check_http(reply, "updateJobsInBulk")
        try:
            value = answers.parse_json(reply.text)
        except ValueError:
            raise answers.unreadable(reply, "updateJobsInBulk") from None
        ok, items = value if isinstance(value, list) and len(value) == 2 else (False, None)
        if not ok or not isinstance(items, list) or len(items) != len(messages):
            raise TransportError(
                f"updateJobsInBulk: {len(messages)} answers expected: {excerpt(reply.text)}", status=reply.status
            )
        return [_judged(_bulk_item(item), message) for item, message in zip(items, messages)]

    def job_status(self, ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Return state and attempt number per PandaID; unknown jobs are ``not found``, as v1 says it."""
        # One text, blank separated: a JSON number ends in 500. The values come joined by "+".
        values = self._checked("getStatus", {"ids": " ".join(str(item) for item in ids)})
        states = str(values.get("status", "")).split("+")
        attempts = str(values.get("attemptNr", "")).split("+")
        if not len(ids) == len(states) == len(attempts):
            raise TransportError(f"getStatus: {len(ids)} jobs asked for, {len(states)} answered")
        return {
            str(job): ("not found" if state == "notfound" else state, int(attempt) if attempt.isdigit() else 0)
            for job, state, attempt in zip(ids, states, attempts)
        }

    def set_debug_mode(self, job_id: str, on: bool) -> bool:
        """Switch the server's debug flag of a job."""
        reply = self._post("setDebugMode", {"pandaID": job_id, "modeOn": "True" if on else "False"})
        answers.check_http(reply, "setDebugMode")
        return reply.text.strip() == "Succeeded"

    # --- worker ------------------------------------------------------------------------------------------------------

    def update_worker_status(self, worker_id: str, harvester_id: str, status: str, site: str, node: str) -> None:
        """Report ``started`` or ``finished``."""
        arguments = {
            "workerID": worker_id,
            "harvesterID": harvester_id,
            "status": status,
            "site": site,
            "node_id": node,
        }
        self._checked("updateWorkerPilotStatus", arguments)

    def update_worker_node(self, description: Mapping[str, object]) -> str:
        """There is no such call in this dialect."""
        raise DialectMissing("update_worker_node exists in v1 only", status=0)

    def update_worker_node_gpu(self, description: Mapping[str, object]) -> str:
        """There is no such call in this dialect."""
        raise DialectMissing("update_worker_node_gpu exists in v1 only", status=0)

    def resource_types(self) -> list[dict[str, object]]:
        """Return the resource types; MB per core, None = no bound."""
        data = self._checked("getResourceTypes", {}).get("ResourceTypes")
        if isinstance(data, str):
            # Without a JSON answer it is the repr of a Python list, with None and single quotes.
            from ast import literal_eval

            try:
                data = literal_eval(data)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise TransportError(f"getResourceTypes: unreadable list: {excerpt(str(data))}") from None
        return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def is_alive(self) -> bool:
        """Return True when the server answers properly; works without credentials."""
        reply = self._transport.get("/server/panda/isAlive")
        answers.check_http(reply, "isAlive")
        return reply.text.strip() == "alive=yes"

    # --- credentials -------------------------------------------------------------------------------------------------

    def get_proxy(self, role: str, dn: str) -> str:
        """Return a proxy (PEM)."""
        return _required(
            self._checked("getProxy", {"role": role, **({"dn": dn} if dn else {})}), "userProxy", "getProxy"
        )

    def get_access_token(self, client_name: str, token_key: str) -> str:
        """Return a new OIDC token."""
        reply = self._transport.get(
            "/server/panda/get_access_token", [("client_name", client_name), ("token_key", token_key)]
        )
        return _required(self._ok(reply, "get_access_token"), "userProxy", "get_access_token")

    def get_token_key(self, client_name: str) -> str:
        """Return the key that get_access_token wants."""
        reply = self._transport.get("/server/panda/get_token_key", [("client_name", client_name)])
        values = self._ok(reply, "get_token_key")
        # Documented is tokenKey; servers that answer as get_access_token does have it in userProxy.
        return _required(values, "tokenKey" if "tokenKey" in values else "userProxy", "get_token_key")

    def get_key_pair(self, public_name: str, private_name: str) -> tuple[str, str]:
        """Return the values of a pair of keys of an object store."""
        values = self._checked("getKeyPair", {"publicKeyName": public_name, "privateKeyName": private_name})
        return _required(values, "publicKey", "getKeyPair"), _required(values, "privateKey", "getKeyPair")

    def get_user_secrets(self, keys: Sequence[str]) -> dict[str, str]:
        """Return secrets by key; the answer is the list ``[true, {...}]``."""
        reply = self._post("get_user_secrets", {"get_json": "True", "keys": ",".join(keys)})
        answers.check_http(reply, "get_user_secrets")
        try:
            value = answers.parse_json(reply.text)
        except ValueError:
            raise TransportError("get_user_secrets: the answer is not JSON") from None
        if not isinstance(value, list) or len(value) != 2:
            raise TransportError("get_user_secrets: the answer is no pair")
        if value[0] is not True:
            raise ServerRefusal(f"get_user_secrets: {excerpt(str(value[1]))}")
        return answers.secrets_of(value[1])

    # --- events ------------------------------------------------------------------------------------------------------

    def acquire_event_ranges(self, request: Mapping[str, object]) -> list[dict[str, object]]:
        """Return event ranges; an empty list means that there are no more. ``request`` has v1 names."""
        arguments = {_EVENT_NAMES.get(name, name): value for name, value in request.items()}
        data = self._checked("getEventRanges", arguments).get("eventRanges")
        if isinstance(data, str):
            try:
                data = answers.parse_json(data)
            except ValueError:
                raise TransportError(f"getEventRanges: unreadable list: {excerpt(str(data))}") from None
        return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    def update_event_ranges(self, ranges_text: str, version: int) -> EventUpdateAnswer:
        """Report on event ranges; ``ranges_text`` is JSON."""
        values = self._checked("updateEventRanges", {"eventRanges": ranges_text, "version": str(version)})
        return answers.event_answer(values)

    def event_range_count(self, job_id: str, jobset_id: str, task_id: str) -> int:
        """Return how many event ranges wait."""
        values = self._checked("checkEventsAvailability", {"pandaID": job_id, "jobsetID": jobset_id, "taskID": task_id})
        return answers.integer_of(values.get("nEventRanges"), "checkEventsAvailability")

    def event_range_statuses(self, ids: Sequence[Mapping[str, int]]) -> dict[str, dict[str, dict[str, object]]]:
        """Return status, error and dialog per range and PandaID; ``ids`` has task_id and panda_id."""
        reply = self._post("get_events_status", {"ids": json.dumps(list(ids))})
        answers.check_http(reply, "get_events_status")
        try:
            value = answers.parse_json(reply.text)
        except ValueError:
            raise answers.unreadable(reply, "get_events_status") from None
        return value if isinstance(value, dict) else {}

    # --- wire --------------------------------------------------------------------------------------------------------

    def _post(self, method: str, arguments: Mapping[str, object]) -> Reply:
        path = f"/server/panda/{method}"
        if self._form:
            body = urlencode({name: str(value) for name, value in arguments.items()}).encode("ascii")
            return self._transport.post(path, body, "application/x-www-form-urlencoded")
        body = gzip_bytes(json.dumps(arguments, allow_nan=False).encode("ascii"))
        return self._transport.post(path, body, "application/json", gzipped=True)

    @staticmethod
    def _values(reply: Reply, what: str) -> dict[str, object]:
        """Return the answer's dictionary, which has a StatusCode; raises for everything else."""
        answers.check_http(reply, what)
        values = answers.parse_legacy(reply.text)
        if values is None or answers.status_code_of(values) is None:
            text = reply.text.strip()
            if answers.is_identity_text(text[:300]):
                raise ServerRefusal(f"{what}: {text[:300]}", status_code=answers.ROLE)
            raise answers.unreadable(reply, what)
        return values

    def _ok(self, reply: Reply, what: str) -> dict[str, object]:
        if reply.status == 200 and reply.text.startswith("Invalid worker state"):
            raise ServerRefusal(f"{what}: {reply.text[:300]}", status_code=answers.INVALID)
        if _rejected(reply):
            raise ServerRefusal(f"{what}: {reply.text[:300]}", status_code=answers.INVALID)
        values = self._values(reply, what)
        code = answers.status_code_of(values)
        if code == answers.OK:
            return values
        text = f"{what}: StatusCode {code}: {str(values.get('errorDialog') or '')[:300]}"
        if code in answers.PERMANENT_CODES:
            raise ServerRefusal(text, status_code=code or 0)
        if code == answers.PROXY_ERROR:
            raise ServerRefusal(text, status_code=code, permanent=False)
        raise TransportError(text)

    def _checked(self, method: str, arguments: Mapping[str, object]) -> dict[str, object]:
        return self._ok(self._post(method, arguments), method)


_EVENT_NAMES = {"job_id": "pandaID", "jobset_id": "jobsetID", "task_id": "taskID", "n_ranges": "nRanges"}


def _rejected(reply: Reply) -> str:
    """Return the argument of which the server says that it does not know it, "" when there is none."""
    return answers.rejected_name(reply.text[:500]) if reply.status == 500 else ""


def _jobs(values: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """Return the jobs of a getJob answer: one at the top level, or a list (a JSON text in the URL-encoded form)."""
    if "jobs" not in values:
        return (dict(values),) if values.get("PandaID") else ()
    jobs = values["jobs"]
    if isinstance(jobs, str):
        try:
            jobs = answers.parse_json(jobs)
        except ValueError:
            raise TransportError(f"getJob: unreadable list of jobs: {excerpt(str(jobs))}") from None
    return tuple(job for job in jobs if isinstance(job, dict)) if isinstance(jobs, list) else ()


def _bulk_item(item: object) -> dict[str, object]:
    """Return one answer of updateJobsInBulk: a text, or ``{"type": "json", "content": <text>}``."""
    content = item.get("content") if isinstance(item, dict) and "content" in item else item
    if isinstance(content, str):
        return answers.parse_legacy(content) or {"errorDialog": content[:300]}
    return content if isinstance(content, dict) else {}


def _judged(values: Mapping[str, object], message: Mapping[str, object]) -> UpdateAnswer:
    text = str(values.get("errorDialog") or values.get("ErrorDiag") or "")
    return judge(
        answers.status_code_of(values),
        text,
        final=message.get("state") in FINAL_STATES,
        command=values.get("command"),
        secrets=values.get("pilotSecrets"),
    )


def _required(values: Mapping[str, object], name: str, what: str) -> str:
    value = values.get(name)
    if not value:
        raise TransportError(f"{what}: the answer does not hold {name}")
    return str(value)
