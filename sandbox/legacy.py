"""The dialect /server/panda/<method>: forms or compressed JSON in, JSON or URL-encoded text out (recorded)."""

from __future__ import annotations

import gzip
import json
from typing import Any, Callable, Dict, List, Mapping, Optional

from sandbox import events
from sandbox.core import UpdateAnswer
from sandbox.creds import CredentialError
from sandbox.fields import FIELD, LEGACY_SLICED
from sandbox.identity import Identity
from sandbox.methods import LEGACY_METHODS, BindError, bind_legacy
from sandbox.rules import PILOT_STATES
from sandbox.selection import JobRequest
from sandbox.state import BAD_WORKER_STATE, NO_ROLE, RESOURCE_TYPES, WORKER_STATES, State
from sandbox.wire import BodyError, Decoded, RawRequest, Reply, error, forbidden, parse_form, parse_query

JSON = "application/json"


def wants_json(headers: Mapping[str, str]) -> bool:
    """True when Accept contains application/json."""
    return JSON in headers.get("Accept", "")


def by_accept(payload: Mapping[str, Any], json_wanted: bool) -> Reply:
    """A dictionary in the form selected by Accept."""
    return as_json(payload) if json_wanted else Reply(payload, "urlencoded")


def as_json(payload: Any) -> Reply:
    """Always JSON."""
    return Reply(payload, "json", content_type=JSON)


def decode(request: RawRequest) -> Decoded:
    """Find the method and read the parameters. BodyError: HTTP 500."""
    parts = request.path.split("/")
    if len(parts) != 4:
        return Decoded("unknown", "", failure=forbidden(""))
    method = LEGACY_METHODS.get(parts[3])
    if method is None:
        return Decoded("unknown", parts[3], failure=forbidden(parts[3]))
    return Decoded(method.operation, method.name, _params(request), method=method)


def _params(request: RawRequest) -> Dict[str, Any]:
    content_type = request.headers.get("Content-Type", "")
    if content_type == JSON:
        # always gunzipped, whatever the method and Content-Encoding say
        try:
            data = json.loads(gzip.decompress(request.body))
        except OSError as exc:
            raise BodyError(str(exc), kills=True) from None
        except (EOFError, ValueError) as exc:
            raise BodyError(str(exc)) from None
        if not isinstance(data, dict):
            raise BodyError(f"argument after ** must be a mapping, not {type(data).__name__}")
        return {key: str(value) if isinstance(value, bool) else value for key, value in data.items()}
    if request.method in ("POST", "PUT"):
        return {**parse_query(request.query), **parse_form(content_type, request.body)}
    return parse_query(request.query)


def answer(decoded: Decoded, identity: Identity, request: RawRequest, state: State) -> Reply:
    """Bind the parameters and call."""
    try:
        bound = bind_legacy(decoded.method.without(state.unknown_parameters), decoded.params)
        return HANDLERS[decoded.name](state, identity, bound, wants_json(request.headers))
    except (BindError, AttributeError, TypeError, ValueError, KeyError) as exc:
        # any exception inside the method is HTTP 500 with its text
        return error(500, str(exc))


def _no_role(json_wanted: bool) -> Reply:
    # the dialog is in JSON replies only (recorded)
    return by_accept({"StatusCode": 60, **({"errorDialog": NO_ROLE} if json_wanted else {})}, json_wanted)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0


def _get_job(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    owner = None
    if not identity.pilot:
        if p["prodSourceLabel"] != "user" or not identity.dn:
            return _no_role(json_wanted)
        owner = identity.name
    bulk = p["nJobs"] not in (None, "")
    jobs = state.core.acquire(JobRequest(
        site=str(p["siteName"]), label=p["prodSourceLabel"], disk=_number(p["diskSpace"]), memory=_number(p["mem"]),
        remaining_time=_number(p["remaining_time"]), computing_element=p["computingElement"], node=p["node"],
        job_type=p["jobType"], prod_user=p["prodUserID"], task_id=int(p["taskID"]) if p["taskID"] else None,
        resource_type=p["resourceType"], harvester_id=p["harvester_id"] or p["schedulerID"], worker_id=p["worker_id"],
        background=str(p["background"]) == "True", n_jobs=int(p["nJobs"]) if bulk else 1,
        proxy_key=str(p["getProxyKey"]) == "True"), owner)
    if not jobs:
        return by_accept({"StatusCode": 20, **({"errorDialog": "no jobs in PanDA"} if json_wanted else {})},
                         json_wanted)
    if not bulk:
        return by_accept(jobs[0], json_wanted)
    return by_accept({"StatusCode": 0, "jobs": jobs if json_wanted else json.dumps(jobs)}, json_wanted)


def _update_job(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    if not identity.pilot:
        return _no_role(json_wanted)
    for name in (*LEGACY_SLICED, "metaData"):
        value = p.get(name, "")
        if value is None and name not in ("pilotLog", "metaData", "stdout"):
            continue
        if value is None:
            raise TypeError("object of type 'NoneType' has no len()")
        if not isinstance(value, str) and name != "metaData":
            raise TypeError(f"'{type(value).__name__}' object is not subscriptable")
    if str(p["jobId"]) == "NULL" or p["state"] not in PILOT_STATES:
        return by_accept({"StatusCode": 0}, json_wanted)
    message: Dict[str, Any] = {name: p.get(name) for name in FIELD}
    if isinstance(message["stdout"], str):
        message["stdout"] = message["stdout"][:2048]
    for name in ("jobId", "attemptNr"):
        if message[name] is not None:
            message[name] = int(message[name])
    return by_accept(_update_reply(state.core.update(message, "legacy", strict_metadata=False)), json_wanted)


def _update_reply(result: UpdateAnswer) -> Dict[str, Any]:
    reply: Dict[str, Any] = {"StatusCode": result.status_code}
    if result.command is not None:
        reply["command"] = result.command
    if result.secrets is not None:
        reply["pilotSecrets"] = result.secrets
    return reply


def _update_jobs_in_bulk(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    if not identity.pilot:
        return Reply([False, NO_ROLE], "json")
    results: List[Any] = []
    for item in json.loads(p["jobList"]):
        reply = _update_job(state, identity, bind_legacy(LEGACY_METHODS["updateJob"], item), json_wanted)
        content = reply.render().decode()
        results.append({"type": "json", "content": content} if json_wanted else content)
    return Reply([True, results], "json")  # JSON, sent as text (recorded)


def _get_status(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    found = [state.core.status(job_id) for job_id in p["ids"].split()]
    return Reply({
        "StatusCode": 0, "status": "+".join(item[0] if item else "notfound" for item in found),
        "attemptNr": "+".join(str(item[1] if item else 0) for item in found)}, "urlencoded")


def _check_job_status(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    found = [state.core.status(job_id.strip()) for job_id in p["ids"].split(",")]
    return as_json({"StatusCode": 0, "data": [
        {"command": item[2] if item else None, "status": item[0] if item else "unknown"} for item in found]})


def _role_text(identity: Identity) -> Optional[Reply]:
    """The plain text refusals of worker and event calls."""
    if not identity.dn:
        return Reply("failed to retrieve DN")
    return None if identity.pilot else Reply("production or pilot role is required")


def _worker_status(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    refusal = _role_text(identity)
    if refusal is not None:
        return refusal
    if p["status"] not in WORKER_STATES:
        return Reply(BAD_WORKER_STATE)
    state.worker_status(p["harvesterID"], p["workerID"], p["status"], p["node_id"])
    return by_accept({"StatusCode": 0}, json_wanted)


def _get_event_ranges(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    refusal = _role_text(identity)
    if refusal is not None:
        return refusal
    segment = int(p["segment_id"]) if p["segment_id"] else None
    ranges = events.acquire(state.core, p["pandaID"], int(p["nRanges"] or 10), segment)
    return by_accept({"StatusCode": 0, "eventRanges": ranges if json_wanted else json.dumps(ranges)}, json_wanted)


def _update_event_ranges(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    refusal = _role_text(identity)
    if refusal is not None:
        return refusal
    version = int(p["version"] or 0)
    returns, commands = events.update(state.core, json.loads(p["eventRanges"]), version)
    texts = version == 0
    return by_accept({"StatusCode": 0, "Returns": json.dumps(returns) if texts else returns,
                      "Command": json.dumps(commands) if texts else commands}, json_wanted)


def _update_event_range(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    refusal = _role_text(identity)
    if refusal is not None:
        return refusal
    returns, commands = events.update(state.core, [p])
    if returns[0] is False:
        return Reply({"StatusCode": 30}, "urlencoded")
    return Reply({"StatusCode": 0, "Command": json.dumps(commands)}, "urlencoded")


def _set_debug_mode(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    if not identity.dn:
        return Reply("SSL secure connection is required")
    done = state.core.debug(int(p["pandaID"]), str(p["modeOn"]) == "True")
    return Reply("Succeeded" if done else f"{p['pandaID']} not found in active DB")


def _send_command(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    done = state.core.command(int(p["panda_id"]), str(p["com"]))
    return Reply([done, "command received" if done else f"job {p['panda_id']} is not active"], "json")


def _credential(value: Callable[[], Any]) -> Reply:
    """A proxy or token, always in JSON."""
    try:
        return as_json({"StatusCode": 0, "errorDialog": "", "userProxy": value()})
    except CredentialError as exc:
        return as_json({"StatusCode": exc.code, "errorDialog": exc.legacy})


def _get_key_pair(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    names = p["publicKeyName"], p["privateKeyName"]
    try:
        public, private = state.creds.key_pair(identity.name, *names)
    except CredentialError as exc:
        text = f"getKeyPair {names[0]}/{names[1]} json={json_wanted}: {exc.legacy}"
        return by_accept({"StatusCode": exc.code, "errorDialog": text}, json_wanted)
    return by_accept({"StatusCode": 0, "publicKey": public, "privateKey": private}, json_wanted)


def _get_secrets(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    keys = p["keys"].split(",") if p["keys"] else None
    return as_json([True, dict(state.get_secrets(identity.name, keys))])


def _set_secret(state: State, identity: Identity, p: Mapping[str, Any], json_wanted: bool) -> Reply:
    state.set_secret(identity.name, p["key"], p["value"])
    return as_json([True, "OK"])


def _voms_attributes() -> Reply:
    """The GridSite variables of the recorded server; what follows the names is particular to that machine."""
    return Reply(
        "GRST_CRED_AURI_0 : dns:localhost\nGRST_CRED_AURI_1 : ip:pandaserver.example\n"
        "GRST_CRED_VALID_0 : notbefore=0 notafter=2147483647 delegation=0 nist-loa=0\n"
        "GRST_CRED_VALID_1 : notbefore=0 notafter=2147483647 delegation=0 nist-loa=0\n")


Handler = Callable[[State, Identity, Mapping[str, Any], bool], Reply]
HANDLERS: Mapping[str, Handler] = {
    "isAlive": lambda s, i, p, j: Reply("alive=yes"),
    "getVomsAttr": lambda s, i, p, j: _voms_attributes(),
    "getJob": _get_job,
    "updateJob": _update_job,
    "updateJobsInBulk": _update_jobs_in_bulk,
    "getStatus": _get_status,
    "checkJobStatus": _check_job_status,
    "updateWorkerPilotStatus": _worker_status,
    "getResourceTypes": lambda s, i, p, j: by_accept(
        {"StatusCode": 0, "Returns": 0, "ResourceTypes": RESOURCE_TYPES}, j),
    "getProxy": lambda s, i, p, j: _credential(lambda: s.creds.proxy(i.name, p["role"] or "")),
    "get_access_token": lambda s, i, p, j: _credential(
        lambda: s.creds.access_token(i.name, p["client_name"], p["token_key"] or "")),
    "get_token_key": lambda s, i, p, j: _credential(lambda: s.creds.token_key(i.name, p["client_name"])),
    "getKeyPair": _get_key_pair,
    "get_user_secrets": _get_secrets,
    "set_user_secret": _set_secret,
    "setDebugMode": _set_debug_mode,
    "send_command_to_job": _send_command,
    "getEventRanges": _get_event_ranges,
    "updateEventRange": _update_event_range,
    "updateEventRanges": _update_event_ranges,
    "checkEventsAvailability": lambda s, i, p, j: as_json(
        {"StatusCode": 0, "nEventRanges": events.available(s.core, p["pandaID"])}),
    "get_events_status": lambda s, i, p, j: as_json(events.statuses(s.core, json.loads(p["ids"]))),
    "get_ban_users": lambda s, i, p, j: as_json([True, dict(s.auth.banned)]),
}
assert set(HANDLERS) == set(LEGACY_METHODS)
