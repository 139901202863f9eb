"""Signature tables of both dialects: which method exists, with which parameters, types and demands.

The real server maps every received parameter straight onto a Python keyword argument, so an unknown or a missing
name kills the request; the texts below are those of Python itself (server-api.md 0.2 and 12.3, recorded).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import AbstractSet, Any, Dict, Mapping, Tuple

from sandbox.fields import UPDATE_FIELDS


class _Required:
    """Marker: the parameter has no default."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


class BindError(Exception):
    """Parameters do not fit the signature; the text is the server's own."""


class CastError(Exception):
    """A parameter has the wrong type (v1); the text is the server's own."""


@dataclass(frozen=True)
class Param:
    """One argument of a method. ``types`` is enforced in v1 only; an empty tuple means anything goes."""

    name: str
    types: Tuple[type, ...] = (str,)
    default: Any = None
    nullable: bool = False


@dataclass(frozen=True)
class Method:
    """One method of one dialect.

    operation: canonical name (the v1 method name), the same for both dialects.
    http: HTTP method demanded by v1; legacy takes any.
    secure: v1 demands an identity.  production: v1 demands the production role.
    """

    name: str
    operation: str
    params: Tuple[Param, ...] = ()
    module: str = ""
    http: str = "POST"
    secure: bool = True
    production: bool = False

    def without(self, names: AbstractSet[str]) -> Method:
        """The method as an older server has it, which does not know some of the parameters."""
        if not names:
            return self
        return replace(self, params=tuple(param for param in self.params if param.name not in names))


def P(names: str, *types: type, default: Any = None) -> Tuple[Param, ...]:
    """Optional parameters of one type; a name ending in ``!`` is required."""
    kinds = types or (str,)
    return tuple(
        Param(name.rstrip("!"), kinds, REQUIRED if name.endswith("!") else default) for name in names.split()
    )


_EVENT_KEY = P("job_id!", int) + P("jobset_id!", int) + P("task_id", int)
_NODE = P("site! host_name! cpu_model!") + P("panda_queue cpu_architecture cpu_architecture_level") + P(
    "n_logical_cpus n_sockets cores_per_socket threads_per_core total_memory total_local_disk timeout", int
) + P("clock_speed", float)
_GPU = P("site! host_name! vendor! model!") + P("count!", int) + P("vram timeout", int) + P(
    "architecture framework framework_version driver_version"
)

_V1 = (
    Method("is_alive", "is_alive", module="system", http="GET", secure=False),
    Method("get_user_attributes", "get_user_attributes", module="system", http="GET"),
    Method(
        "acquire_jobs",
        "acquire_jobs",
        P("site_name!") + P("timeout", int, default=60) + P("memory disk_space worker_id task_id", int)
        + P("prod_source_label node computing_element prod_user_id get_proxy_key resource_type harvester_id")
        + P("scheduler_id job_type") + P("via_topic background", bool) + P("remaining_time", int, float)
        # null is not refused as a type but breaks the call later (HTTP 500), server-api.md 5.4
        + (Param("n_jobs", (int,), 1, nullable=True),),
        module="pilot",
    ),
    Method(
        "update_job",
        "update_job",
        tuple(
            Param(f.v1, f.types, REQUIRED if f.legacy in ("jobId", "state") else f.default)
            for f in UPDATE_FIELDS if f.v1
        ) + P("timeout", int, default=60),
        module="pilot",
        production=True,
    ),
    Method("update_jobs_bulk", "update_jobs_bulk", P("job_list!", list) + P("harvester_id"), module="pilot",
           production=True),
    Method("get_job_status", "get_job_status", P("job_ids!", list) + P("timeout", int, default=60), module="pilot",
           http="GET"),
    Method("update_worker_status", "update_worker_status",
           # any type is taken for the worker id (recorded as text)
           (Param("worker_id", (), REQUIRED), *P("harvester_id! status!"), *P("timeout", int, default=60),
            *P("node_id")), module="pilot", production=True),
    Method("update_worker_node", "update_worker_node", _NODE, module="pilot", production=True),
    Method("update_worker_node_gpu", "update_worker_node_gpu", _GPU, module="pilot", production=True),
    Method("acquire_event_ranges", "acquire_event_ranges",
           _EVENT_KEY + P("n_ranges", int, default=10) + P("timeout", int, default=60)
           + P("scattered", bool, default=False) + P("segment_id", int), module="event", production=True),
    Method("update_event_ranges", "update_event_ranges",
           P("event_ranges!") + P("timeout", int, default=60) + P("version", int, default=0), module="event",
           production=True),
    Method("update_single_event_range", "update_single_event_range",
           P("event_range_id! event_range_status!") + P("core_count object_store_id", int)
           + P("cpu_consumption_time", float) + P("timeout", int, default=60), module="event", production=True),
    Method("get_available_event_range_count", "get_available_event_range_count",
           _EVENT_KEY + P("timeout", int, default=60), module="event", http="GET"),
    Method("get_event_range_statuses", "get_event_range_statuses", P("job_task_ids!"), module="event", http="GET"),
    Method("get_proxy", "get_proxy", P("role dn"), module="creds", http="GET"),
    Method("get_access_token", "get_access_token", P("client_name!") + P("token_key"), module="creds", http="GET"),
    Method("get_token_key", "get_token_key", P("client_name!"), module="creds", http="GET"),
    Method("get_key_pair", "get_key_pair", P("public_key_name! private_key_name!"), module="creds", http="GET"),
    Method("get_user_secrets", "get_user_secrets", P("keys", list), module="creds", http="GET"),
    Method("set_user_secrets", "set_user_secrets", P("key value"), module="creds"),
    Method("set_debug_mode", "set_debug_mode", P("job_id!", int) + P("mode!", bool), module="job"),
    Method("set_command", "set_command", P("job_id!", int) + P("command!"), module="job"),
    Method("kill", "kill", P("job_ids!", list) + P("code", int) + P("use_email_as_id", bool) + P("kill_options", list),
           module="job"),
    Method("get_resource_types", "get_resource_types", module="metaconfig", http="GET"),
    Method("get_banned_users", "get_banned_users", module="metaconfig", http="GET"),
)

_LEGACY = (
    Method("isAlive", "is_alive"),
    Method("getVomsAttr", "get_voms_attributes"),
    Method("getJob", "acquire_jobs", P("siteName!") + P(
        "token timeout cpu mem diskSpace prodSourceLabel node computingElement AtlasRelease prodUserID getProxyKey "
        "countryGroup workingGroup allowOtherCountry taskID nJobs background resourceType harvester_id worker_id "
        "schedulerID jobType viaTopic remaining_time")),
    Method("updateJob", "update_job", P("jobId! state!") + tuple(
        Param(f.legacy, default=f.default) for f in UPDATE_FIELDS if f.legacy not in ("jobId", "state")
    ) + P("timestamp workdir remainingSpace messageLevel computingElement token timeout")),
    Method("updateJobsInBulk", "update_jobs_bulk", P("jobList!") + P("harvester_id")),
    Method("getStatus", "get_job_status", P("ids!") + P("timeout")),
    Method("checkJobStatus", "check_job_status", P("ids!")),
    Method("updateWorkerPilotStatus", "update_worker_status",
           P("workerID! harvesterID! status!") + P("timeout site node_id")),
    Method("getResourceTypes", "get_resource_types", P("timeout")),
    Method("getProxy", "get_proxy", P("role dn")),
    Method("get_access_token", "get_access_token", P("client_name!") + P("token_key")),
    Method("get_token_key", "get_token_key", P("client_name!")),
    Method("getKeyPair", "get_key_pair", P("publicKeyName! privateKeyName!")),
    Method("get_user_secrets", "get_user_secrets", P("keys get_json")),
    Method("set_user_secret", "set_user_secrets", P("key value")),
    Method("setDebugMode", "set_debug_mode", P("pandaID! modeOn!")),
    Method("send_command_to_job", "set_command", P("panda_id! com!")),
    Method("getEventRanges", "acquire_event_ranges",
           P("pandaID! jobsetID!") + P("taskID nRanges timeout scattered segment_id")),
    Method("updateEventRange", "update_single_event_range",
           P("eventRangeID! eventStatus!") + P("coreCount cpuConsumptionTime objstoreID timeout pandaID")),
    Method("updateEventRanges", "update_event_ranges", P("eventRanges!") + P("timeout version pandaID")),
    Method("checkEventsAvailability", "get_available_event_range_count", P("pandaID! jobsetID! taskID!") + P(
        "timeout")),
    Method("get_events_status", "get_event_range_statuses", P("ids!")),
    Method("get_ban_users", "get_banned_users"),
)

V1_METHODS: Mapping[Tuple[str, str], Method] = {(m.module, m.name): m for m in _V1}
LEGACY_METHODS: Mapping[str, Method] = {m.name: m for m in _LEGACY}
OPERATIONS = frozenset(m.operation for m in _V1 + _LEGACY)


class _Bound(Dict[str, Any]):
    """Bound parameters; one that an older server does not have reads as null."""

    def __missing__(self, key: str) -> Any:
        return None


def bind_legacy(method: Method, params: Mapping[str, Any]) -> dict[str, Any]:
    """Bind as a plain Python call does; BindError has the text of the TypeError (recorded)."""
    known = {p.name for p in method.params}
    for name in params:
        if name not in known:
            raise BindError(f"{method.name}() got an unexpected keyword argument '{name}'")
    missing = [p.name for p in method.params if p.default is REQUIRED and p.name not in params]
    if missing:
        quoted = [f"'{name}'" for name in missing]
        text = quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + (
            "," if len(quoted) > 2 else "") + f" and {quoted[-1]}"
        plural = "s" if len(missing) > 1 else ""
        raise BindError(f"{method.name}() missing {len(missing)} required positional argument{plural}: {text}")
    return _Bound({p.name: params.get(p.name, p.default) for p in method.params})


def bind_v1(method: Method, params: Mapping[str, Any], cast: bool) -> dict[str, Any]:
    """Bind as ``inspect.Signature.bind`` does, then enforce the types (POST) or cast to them (``cast``, GET)."""
    for param in method.params:
        if param.default is REQUIRED and param.name not in params:
            raise BindError(f"missing a required argument: '{param.name}'")
    known = {p.name: p for p in method.params}
    for name in params:
        if name not in known:
            raise BindError(f"got an unexpected keyword argument '{name}'")
    bound = _Bound()
    for param in method.params:
        if param.name not in params:
            bound[param.name] = param.default
            continue
        value = params[param.name]
        bound[param.name] = _cast(param, value) if cast else _check(param, value)
    return bound


def _check(param: Param, value: Any) -> Any:
    if value is None and (param.default is None or param.nullable):
        return value
    if not param.types or isinstance(value, param.types):
        return value
    if len(param.types) > 1:
        # The server names the expected type with __name__, which a union does not have: HTTP 500 (server-api.md 6.2).
        raise AttributeError("'types.UnionType' object has no attribute '__name__'")
    raise CastError(f"'{param.name}' must be of type {param.types[0].__name__}, got {type(value).__name__}.")


def _cast(param: Param, value: Any) -> Any:
    if not param.types:
        return value
    kind = param.types[0]
    if kind is list:
        return value if isinstance(value, list) else [value]
    if isinstance(value, kind):
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        return kind(value)
    except (ValueError, TypeError, KeyError):
        raise CastError(f"'{param.name}' with value '{value}' could not be casted to type {kind}.") from None
