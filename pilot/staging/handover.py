"""The request and the result of a transfer that runs in another process: one JSON file each, versioned, all or nothing.

```
 the pilot                                   the script (another Python, perhaps in a container)
 request_of(job, files, ctx) ── request ──►  restore(request) -> job, files, context
 apply_result(files)        ◄── result ───   result_of(files, records, error)
```
Both sides are the same version of this file. Settings travel as values, so that the other side needs no YAML; secrets
do not travel here (``pilot.staging.middleware``).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.info.storage import StorageData
from pilot.options import Options
from pilot.settings import restored_settings
from pilot.staging.context import StagingContext, TransferRecord
from pilot.util.checksum import open_regular
from pilot.util.copying import placed
from pilot.util.helper import HelperPool

VERSION = 1

JOB_FACTS = (
    "jobid", "attemptnr", "nucleus", "transformation", "altstageout", "prodsourcelabel", "is_eventservicemerge",
)  # fmt: skip
"""What the planner reads of a job beside its files and its work directory."""
CONTEXT_FACTS = ("mv_to_final_destination", "job_id", "attempt_nr", "use_vp")
"""Fields of the context that travel as they are; a test sees to it that every field is in one of the three lists."""
CONTEXT_MADE = ("settings", "options", "queue", "pilot_home", "launch_dir", "storage", "record", "show", "workdir",
                "helpers", "environ", "key_pair", "tries")
"""Fields that the other side makes for itself."""
CONTEXT_STAYS = ("middleware", "secret_files", "redundant_patterns", "archive_extras", "payload_logs", "own_log")
"""Fields that no transfer reads."""
_RESULT_FIELDS = ("status", "status_code", "filesize", "checksum", "ddmendpoint", "ddmendpoint_alt", "replicas",
                  "protocols", "surl", "turl", "domain", "inputddms", "ddm_activity", "protocol_id", "checkinputsize",
                  "is_altstaged", "log_url")
_READABLE = 100
"""Files of a transfer up to which the JSON has one line per value."""
_STATES = (None, "transferred", "remote_io", "no_transfer", "failed")


class BadHandover(PilotException):
    """A request or a result that is missing or cannot be used."""

    default_code = 1303


@dataclass(frozen=True)
class Places:
    """The job's directory under its two names; equal without a container."""

    outside: Path
    inside: Path

    def enter(self, path: Optional[Path]) -> str:
        """Return the name that a path has inside; what is not below the job's directory keeps its own."""
        if path is None:
            return ""
        try:
            return str(self.inside / path.relative_to(self.outside))
        except ValueError:
            return str(path)

    def leave(self, text: str) -> str:
        """Return a text from inside (a URL, a message) with the names that paths have outside."""
        if self.inside == self.outside:
            return text
        return re.sub(rf"(?<![\w.\-/])((?:file:/*?(?:localhost)?)?){re.escape(str(self.inside))}(?=[/\s:;,)\]'\"]|$)",
                      lambda match: f"{match.group(1)}{self.outside}", text)


@dataclass
class Result:
    """What the script tells."""

    code: int = 0
    text: str = ""
    cancelled: bool = False
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: list[TransferRecord] = field(default_factory=list)
    tries: dict[tuple[str, str], int] = field(default_factory=dict)


def request_of(
    job: Job,
    files: Sequence[FileSpec],
    ctx: StagingContext,
    places: Places,
    *,
    direction: str,
    name: str,
    home: Path,
    storage: Mapping[str, StorageData],
    storage_problem: Optional[PilotException],
) -> dict[str, Any]:
    """Return what the script has to know.

    Args:
        job, files, ctx: of the transfer.
        places: the job's directory.
        direction: ``in``, ``out`` or ``log``.
        name: random word; the result carries it, so that an old one is not taken for this transfer's.
        home: the pilot's directory as the script is to see it.
        storage: descriptions of the endpoints that may be asked for.
        storage_problem: why they could not be had; raised when one is asked for.
    """
    given = {item.name: getattr(ctx.options, item.name) for item in fields(Options) if item.name != "overrides"}
    default = Options()
    options = {key: value for key, value in given.items() if value != getattr(default, key)}
    for key, path in (("input_dir", ctx.input_dir), ("output_dir", ctx.output_dir),
                      ("input_destination_dir", ctx.input_destination_dir)):
        options[key] = places.enter(path)
    return {
        "version": VERSION,
        "name": name,
        "direction": direction,
        "workdir": str(places.inside),
        "pilot_home": str(home),
        "launch_dir": places.enter(ctx.launch_dir),
        "settings": ctx.settings.values(),
        "options": options,
        "queue": asdict(ctx.queue),
        "storage": {key: asdict(value) for key, value in storage.items()},
        "storage_problem": [storage_problem.code, storage_problem.detail] if storage_problem else None,
        "job": {key: getattr(job, key) for key in JOB_FACTS},
        "context": {key: getattr(ctx, key) for key in CONTEXT_FACTS},
        "tries": [[*key, count] for key, count in ctx.tries.items()],
        "files": [{**_facts(spec), "workdir": places.enter(spec.workdir)} for spec in files],
    }


def _facts(spec: FileSpec) -> dict[str, Any]:
    """Return the fields that are not as in a new FileSpec: a job may have 100,000 files."""
    return {name: value for name in _FILE_FIELDS if (value := getattr(spec, name)) != getattr(_NEW_FILE, name)}


_NEW_FILE = FileSpec("")
_FILE_FIELDS = tuple(item.name for item in fields(FileSpec))


@dataclass
class Restored:
    """A request as the planner takes it."""

    name: str
    direction: str
    job: Job
    files: list[FileSpec]
    ctx: StagingContext


def restore(request: Mapping[str, Any], environ: Mapping[str, str]) -> Restored:
    """Make the planner's objects of a request.

    Raises:
        BadHandover: the request is of another version or incomplete.
        PilotException: settings that cannot be used.
    """
    if request.get("version") != VERSION:
        raise BadHandover(f"the request has version {request.get('version')!r}, this side knows {VERSION}")
    try:
        settings = restored_settings(request["settings"])
        job = Job(workdir=Path(request["workdir"]), **request["job"])
        files = [_file_of(item) for item in request["files"]]
        helper = settings.transfers.helper_python
        ctx = StagingContext(
            settings=settings,
            options=Options(**request["options"]),
            queue=QueueData(**request["queue"]),
            pilot_home=Path(request["pilot_home"]),
            launch_dir=Path(request["launch_dir"]),
            storage=_Storage(request["storage"], request["storage_problem"]),
            workdir=job.workdir,
            helpers=HelperPool(job.workdir, (helper,) if helper and os.access(helper, os.X_OK) else ()),
            environ=dict(environ),
            tries={(way, lfn): count for way, lfn, count in request["tries"]},
            **request["context"],
        )
        return Restored(request["name"], request["direction"], job, files, ctx)
    except (KeyError, TypeError, ValueError) as exc:
        raise BadHandover(f"the request cannot be used: {type(exc).__name__}: {exc}") from exc


class _Storage:
    """Endpoint data out of a request."""

    def __init__(self, raw: Mapping[str, Mapping[str, Any]], problem: Optional[Sequence[Any]]) -> None:
        self._known = {name: StorageData(**value) for name, value in raw.items()}
        self._problem = problem

    def __call__(self, names: list[str]) -> Mapping[str, StorageData]:
        found = {name: self._known[name] for name in names if name in self._known}
        if self._problem and len(found) < len(names):
            raise PilotException(self._problem[1], code=self._problem[0])
        return found


def _file_of(raw: Mapping[str, Any]) -> FileSpec:
    return FileSpec(**{**raw, "workdir": Path(raw["workdir"]) if raw["workdir"] else None})


# --- the way back -----------------------------------------------------------------------------------------------------


def result_of(
    name: str, files: Sequence[FileSpec], records: Sequence[TransferRecord], tries: Mapping[tuple[str, str], int],
    failure: Optional[PilotException], *, cancelled: bool = False,
) -> dict[str, Any]:
    """Return what the pilot is told; ``failure`` is what the planner has raised."""
    return {
        "version": VERSION,
        "name": name,
        "error": {"code": failure.code, "text": failure.detail, "cancelled": cancelled} if failure else None,
        "files": {spec.lfn: {key: getattr(spec, key) for key in _RESULT_FIELDS} for spec in files},
        "records": [record._asdict() for record in records],
        "tries": [[*key, count] for key, count in tries.items()],
    }


def read_result(path: Path, name: str, places: Places) -> Result:
    """Read a result.

    Raises:
        BadHandover: it is missing, broken, of another version or of another transfer.
    """
    raw = read_json(path)
    if raw.get("version") != VERSION or raw.get("name") != name:
        raise BadHandover(f"{path} is not the result of this transfer")
    try:
        error = raw["error"] or {"code": 0, "text": "", "cancelled": False}
        result = Result(int(error["code"]), places.leave(str(error["text"])), bool(error["cancelled"]))
        for lfn, values in raw["files"].items():
            result.files[lfn] = _checked(values, places)
        for values in raw["records"]:
            record = TransferRecord(**values)
            result.records.append(record._replace(
                url=places.leave(record.url), text=places.leave(record.text), local_url=places.leave(record.local_url)))
        result.tries = {(str(way), str(lfn)): int(count) for way, lfn, count in raw["tries"]}
        return result
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise BadHandover(f"{path} is broken: {type(exc).__name__}: {exc}") from exc


def _checked(values: Mapping[str, Any], places: Places) -> dict[str, Any]:
    result = {key: values[key] for key in _RESULT_FIELDS}
    if result["status"] not in _STATES:
        raise ValueError(f"unknown status {result['status']!r}")
    result["status_code"], result["filesize"] = int(result["status_code"]), int(result["filesize"])
    result["checksum"] = {str(kind): str(value) for kind, value in result["checksum"].items()}
    for key in ("surl", "turl", "log_url"):
        result[key] = places.leave(str(result[key]))
    return result


def apply_result(result: Result, files: Sequence[FileSpec]) -> None:
    """Write what became of the files to their FileSpecs."""
    for spec in files:
        for key, value in result.files.get(spec.lfn, {}).items():
            setattr(spec, key, value)


# --- files ------------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file that only this user can read; nobody sees a part of it.

    Raises:
        OSError: it cannot be written.
    """
    with placed(path) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, indent=1 if len(content.get("files", ())) <= _READABLE else None, default=str)


def read_json(path: Path) -> dict[str, Any]:
    """Read such a file.

    Raises:
        BadHandover: it is missing or no JSON object.
    """
    try:
        with open(open_regular(path, links=False), encoding="utf-8") as stream:
            content = json.load(stream)
    except OSError as exc:
        raise BadHandover(f"{path}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise BadHandover(f"{path} is no JSON: {exc}") from exc
    if not isinstance(content, dict):
        raise BadHandover(f"{path} holds no JSON object")
    return content
