"""The dialect /api/v1/<module>/<method>: JSON in, an envelope out, types enforced (server-api.md 2, recorded)."""

from __future__ import annotations

import gzip
import json
from typing import Any, Callable, Dict, List, Mapping

from sandbox import events
from sandbox.core import UpdateAnswer
from sandbox.creds import CredentialError
from sandbox.fields import LEGACY_NAME
from sandbox.identity import Identity
from sandbox.methods import V1_METHODS, BindError, CastError, Method, bind_v1
from sandbox.rules import PILOT_STATES
from sandbox.selection import JobRequest
from sandbox.state import BAD_WORKER_STATE, NO_ROLE, RESOURCE_TYPES, WORKER_STATES, State
from sandbox.wire import BodyError, Decoded, RawRequest, Reply, error, forbidden, parse_form, parse_query

JSON = "application/json"
Envelope = Dict[str, Any]


def envelope(success: bool, message: str = "", data: Any = None) -> Envelope:
    """The reply envelope."""
    return {"success": success, "message": message, "data": data}


def wants_json(headers: Mapping[str, str]) -> bool:
    """True when Content-Type or Accept is exactly application/json; otherwise the reply is a Python repr."""
    return headers.get("Content-Type") == JSON or headers.get("Accept") == JSON


def decode(request: RawRequest) -> Decoded:
    """Find the method and read the parameters. BodyError: HTTP 500."""
    parts = request.path.split("/")
    if len(parts) != 5:
        return Decoded("unknown", "", failure=forbidden(""))
    method = V1_METHODS.get((parts[3], parts[4]))
    if method is None:
        return Decoded("unknown", parts[4], failure=forbidden(parts[4]))
    return Decoded(method.operation, method.name, _params(request), method=method)


def _params(request: RawRequest) -> Dict[str, Any]:
    if request.method not in ("POST", "PUT"):
        return parse_query(request.query)
    content_type, body = request.headers.get("Content-Type", ""), request.body
    if content_type != JSON:
        return {**parse_query(request.query), **parse_form(content_type, body)}
    try:
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        text = body.decode()
    except OSError as exc:
        raise BodyError(str(exc), kills=True) from None
    except (EOFError, UnicodeDecodeError) as exc:
        raise BodyError(str(exc)) from None
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise BodyError(f"ERROR : received invalid JSON : {exc}") from None
    if not isinstance(data, dict):
        raise BodyError(f"argument after ** must be a mapping, not {type(data).__name__}")
    return data


def answer(decoded: Decoded, identity: Identity, request: RawRequest, state: State) -> Reply:
    """Validate as the server's decorator does, in its order, then call."""
    form = "json" if wants_json(request.headers) else "repr"
    method: Method = decoded.method
    if method.secure and not identity.secure:
        return Reply(envelope(False, "SSL secure connection is required"), form)  # type: ignore[arg-type]
    if method.production and not identity.production:
        return Reply(envelope(False, "production or pilot role required"), form)  # type: ignore[arg-type]
    if request.method != method.http:
        text = f"expecting {method.http}, received {request.method}"
        return Reply(envelope(False, text), form)  # type: ignore[arg-type]
    try:
        bound = bind_v1(method.without(state.unknown_parameters), decoded.params, cast=request.method == "GET")
        payload = HANDLERS[method.name](state, identity, bound)
    except BindError as exc:
        payload = envelope(False, f"Argument error: {exc}")
    except CastError as exc:
        payload = envelope(False, f"Type error: {exc}")
    except CredentialError as exc:
        payload = envelope(False, exc.v1)
    except ServerBug as exc:
        return error(500, str(exc))
    except (AttributeError, TypeError, ValueError, KeyError) as exc:
        # what the server's own code would have stumbled over
        return error(500, str(exc))
    return Reply(payload, form)  # type: ignore[arg-type]


class ServerBug(Exception):
    """A known failure of the real server, HTTP 500 with this text."""


def _acquire_jobs(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    owner = None
    if not identity.production:
        if p["prod_source_label"] != "user":
            return envelope(False, NO_ROLE)
        owner = identity.name
    jobs = state.core.acquire(JobRequest(
        site=p["site_name"], label=p["prod_source_label"], disk=p["disk_space"] or 0, memory=p["memory"] or 0,
        remaining_time=p["remaining_time"] or 0, computing_element=p["computing_element"], node=p["node"],
        job_type=p["job_type"], prod_user=p["prod_user_id"], task_id=p["task_id"], resource_type=p["resource_type"],
        harvester_id=p["harvester_id"] or p["scheduler_id"], worker_id=p["worker_id"],
        background=bool(p["background"]), n_jobs=int(p["n_jobs"]), proxy_key=p["get_proxy_key"] == "True"), owner)
    if not jobs:
        return envelope(False, "No jobs in PanDA")
    return envelope(True, data={"StatusCode": 0, "jobs": jobs})


def _update_job(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    if p["job_status"] not in PILOT_STATES:
        return envelope(False, f"Invalid job status: {p['job_status']}", {"StatusCode": 50})
    message = {LEGACY_NAME[name]: value for name, value in p.items() if name in LEGACY_NAME}
    return _update_envelope(state.core.update(message, "v1", strict_metadata=True))


def _update_envelope(result: UpdateAnswer) -> Envelope:
    if result.metadata_failed:
        return envelope(True, "Failed to add meta_data", {"StatusCode": 30, "ErrorDiag": "Failed to add meta_data"})
    if result.status_code:
        return envelope(True, "Database error", {"StatusCode": result.status_code})
    data: Dict[str, Any] = {"StatusCode": 0}
    if result.secrets is not None:
        data["pilotSecrets"] = result.secrets
    if result.command is not None:
        data["command"] = result.command
    return envelope(True, data=data)


def _update_jobs_bulk(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    results: List[Envelope] = []
    for item in p["job_list"]:
        try:
            results.append(_update_job(state, identity, bind_v1(V1_METHODS["pilot", "update_job"], item, cast=False)))
        except BindError as exc:
            results.append(envelope(False, f"Argument error: {exc}"))
        except CastError as exc:
            results.append(envelope(False, f"Type error: {exc}"))
    return envelope(True, data=results)


def _get_job_status(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    found = []
    for job_id in p["job_ids"]:
        status = state.core.status(job_id)
        found.append({"job_id": int(job_id), "status": status[0] if status else "not found",
                      "attempt_number": status[1] if status else 0})
    return envelope(True, data=found)


def _update_worker_status(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    if p["status"] not in WORKER_STATES:
        return envelope(False, BAD_WORKER_STATE)
    state.worker_status(p["harvester_id"], p["worker_id"], p["status"], p["node_id"])
    return envelope(True)


def _update_worker_node(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    state.worker_node(p, gpu=False)
    return envelope(True, "Inserted new worker node.")  # also for a known node (recorded)


def _update_worker_node_gpu(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    state.worker_node(p, gpu=True)
    return envelope(True, "Updated existing worker node GPU.")  # also the first time (recorded)


def _acquire_event_ranges(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    return envelope(True, data=events.acquire(state.core, p["job_id"], p["n_ranges"], p["segment_id"]))


def _update_event_ranges(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    returns, commands = events.update(state.core, json.loads(p["event_ranges"]), p["version"])
    # The server builds its reply from a set, which cannot be serialised: 500 after the update (recorded).
    raise ServerBug(f"Type not serializable for {{'Returns', '{json.dumps(returns)}', '{json.dumps(commands)}', "
                    "'Commands'} (<class 'set'>)")


def _update_single_event_range(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    if p["object_store_id"] is not None:
        raise ServerBug("update_event_range() got an unexpected keyword argument 'object_store_id'")
    item = {"eventRangeID": p["event_range_id"], "eventStatus": p["event_range_status"]}
    returns, commands = events.update(state.core, [item])
    if returns[0] is False:
        return envelope(False, "Failed to update the event range")
    return envelope(True, data={"Command": json.dumps(commands)})


def _set_debug_mode(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    if state.core.debug(p["job_id"], p["mode"]):
        return envelope(False, "Succeeded")  # the server's success is inverted here (recorded)
    return envelope(True, f"{p['job_id']} not found in active DB")


def _set_command(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    if state.core.command(p["job_id"], p["command"]):
        return envelope(True, "command received")
    return envelope(False, f"job {p['job_id']} is not active")


def _kill(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    return envelope(True, data=[state.core.kill(job_id) for job_id in p["job_ids"]])


def _get_user_attributes(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    fqans = list(identity.fqans)
    text = (
        f"User DN (raw): {identity.dn}\nUser DN (bare): {identity.bare}\nUser DN (clean): {identity.name}\n"
        f"Email address: None\nFQANs: {fqans}\nProduction user: {identity.production}\n"
        "Production working groups: []\nPrimary production working group: None\n")
    return envelope(True, text, {
        "user_dn_raw": identity.dn, "user_dn_clean": identity.name, "fqans": fqans,
        "is_production_user": identity.production, "production_working_groups": [], "primary_working_group": None})


def _set_user_secrets(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    state.set_secret(identity.name, p["key"], p["value"])
    return envelope(True, "OK")


def _get_key_pair(state: State, identity: Identity, p: Mapping[str, Any]) -> Envelope:
    public, private = state.creds.key_pair(identity.name, p["public_key_name"], p["private_key_name"])
    return envelope(True, data={"public_key": public, "private_key": private})


Handler = Callable[[State, Identity, Mapping[str, Any]], Envelope]
HANDLERS: Mapping[str, Handler] = {
    "is_alive": lambda s, i, p: envelope(True),
    "get_user_attributes": _get_user_attributes,
    "acquire_jobs": _acquire_jobs,
    "update_job": _update_job,
    "update_jobs_bulk": _update_jobs_bulk,
    "get_job_status": _get_job_status,
    "update_worker_status": _update_worker_status,
    "update_worker_node": _update_worker_node,
    "update_worker_node_gpu": _update_worker_node_gpu,
    "acquire_event_ranges": _acquire_event_ranges,
    "update_event_ranges": _update_event_ranges,
    "update_single_event_range": _update_single_event_range,
    "get_available_event_range_count": lambda s, i, p: envelope(True, data=events.available(s.core, p["job_id"])),
    "get_event_range_statuses": lambda s, i, p: envelope(
        True, data=events.statuses(s.core, json.loads(p["job_task_ids"]))),
    "get_proxy": lambda s, i, p: envelope(True, data={"user_proxy": s.creds.proxy(i.name, p["role"] or "")}),
    "get_access_token": lambda s, i, p: envelope(
        True, data={"user_proxy": s.creds.access_token(i.name, p["client_name"], p["token_key"] or "")}),
    "get_token_key": lambda s, i, p: envelope(True, data={"tokenKey": s.creds.token_key(i.name, p["client_name"])}),
    "get_key_pair": _get_key_pair,
    "get_user_secrets": lambda s, i, p: envelope(True, data=json.dumps(s.get_secrets(i.name, p["keys"]))),
    "set_user_secrets": _set_user_secrets,
    "set_debug_mode": _set_debug_mode,
    "set_command": _set_command,
    "kill": _kill,
    "get_resource_types": lambda s, i, p: envelope(True, data=RESOURCE_TYPES),
    "get_banned_users": lambda s, i, p: envelope(True, data=dict(s.auth.banned)),
}
assert set(HANDLERS) == {name for _, name in V1_METHODS}
