"""From what a user submits to what the dispatcher hands out: every field the real server always sends.

Order and defaults are those of the recorded dispatches (job-definition.md 2, tests/data/panda-server-transcripts).
"""

from __future__ import annotations

import uuid
from typing import Any, Mapping, Optional, Sequence

from sandbox.fields import words

# Keys that steer the server and are not dispatched.
SERVER_KEYS = ("computingSite", "useSecrets", "backgroundable", "eventRanges", "nSent", "StatusCode")

DISPATCH_ORDER = words(
    "PandaID prodSourceLabel swRelease homepackage transformation jobName jobDefinitionID cloud inFiles "
    "dispatchDblock dispatchDBlockToken dispatchDBlockTokenForOut outFiles destinationDblock destinationDBlockToken "
    "prodDBlocks prodDBlockToken realDatasets realDatasetsIn fileDestinationSE logFile logGUID jobPars attemptNr GUID "
    "checksum fsize scopeIn scopeOut scopeLog ddmEndPointIn ddmEndPointOut destinationSE prodUserID maxCpuCount "
    "minRamCount maxDiskCount cmtConfig processingType transferType sourceSite currentPriority taskID coreCount "
    "jobsetID reqID nucleus maxWalltime resource_type"
)
LAST_FIELDS = ("ioIntensity", "ioIntensityUnit", "onSiteMerging")  # after the other conditional ones (recorded)

_INPUT_LISTS = words("dispatchDblock dispatchDBlockToken prodDBlocks prodDBlockToken realDatasetsIn GUID checksum "
                     "fsize scopeIn")
_OUTPUT_LISTS = words("dispatchDBlockTokenForOut destinationDBlockToken fileDestinationSE")


def as_key(value: Any) -> Optional[int]:
    """An int, or text of digits (job files from ARC have text), as an int that SQLite can hold; else None."""
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdigit())):
        return None
    return int(value) if int(value) < 2**63 else None


def complete(definition: Mapping[str, Any], job_id: int, queue: str, out_endpoint: str) -> dict[str, Any]:
    """The dispatched fields of a job, in the server's order; given fields are kept, missing ones get defaults.

    out_endpoint: RSE for outputs when the definition names none (may be empty).
    """
    given = {key: value for key, value in definition.items() if key not in SERVER_KEYS}
    name = str(given.get("jobName") or uuid.uuid4())
    inputs = _elements(given.get("inFiles", ""))
    outputs = _elements(given.get("outFiles", ""))
    log = given.get("logFile")
    if log is None:
        logs = [lfn for lfn in outputs if lfn.startswith("log.") or lfn.endswith((".log.tgz", ".log.tgz.1"))]
        log = logs[0] if logs else f"log.{name}.job.log.tgz"
        if not logs:
            outputs = [*outputs, log]
            # lists given for the outputs alone get an element for the log that was added
            for key in ("realDatasets", "destinationDblock", "ddmEndPointOut", *_OUTPUT_LISTS):
                if isinstance(given.get(key), str) and len(given[key].split(",")) == len(outputs) - 1:
                    given[key] = ",".join([*_elements(given[key]), _elements(given[key])[-1]]) if given[key] else None
    no_log = [lfn for lfn in outputs if lfn != log]
    core_count = given.get("coreCount", 1)
    memory = given.get("minRamCount", 1500)
    defaults: dict[str, Any] = {
        "PandaID": job_id,
        "prodSourceLabel": "managed",
        "swRelease": "NULL",
        "homepackage": "NULL",
        "transformation": "echo",
        "jobName": name,
        "jobDefinitionID": job_id % 100000,
        "cloud": "WORLD",
        "inFiles": ",".join(inputs),
        "outFiles": ",".join(outputs),
        "logFile": log,
        "logGUID": str(uuid.uuid4()) if log else "",
        "jobPars": "",
        "attemptNr": 1,
        "scopeOut": ",".join(["test"] * len(no_log)),
        "scopeLog": "test" if log else "",
        "ddmEndPointIn": "",
        "ddmEndPointOut": ",".join([out_endpoint] * len(outputs)) if out_endpoint else "",
        "realDatasets": ",".join("test.out.log" if lfn == log else "test.out" for lfn in outputs),
        "destinationSE": "local",
        "prodUserID": "/DC=example/O=Test/OU=Users/CN=Jane Doe",
        "maxCpuCount": 3600,
        "minRamCount": memory,
        "maxDiskCount": 100,
        "cmtConfig": "NULL",
        "processingType": "test",
        "transferType": "NULL",
        "sourceSite": "NULL",
        "currentPriority": 900,
        "taskID": "NULL",
        "coreCount": core_count,
        "jobsetID": "NULL",
        "reqID": "NULL",
        "nucleus": "NULL",
        "maxWalltime": 3600,
        "resource_type": _resource_type(core_count, memory),
        "ioIntensity": None,
        "ioIntensityUnit": None,
    }
    defaults["destinationDblock"] = defaults["realDatasets"]
    defaults.update({key: ",".join(["NULL"] * len(inputs)) for key in _INPUT_LISTS})
    defaults.update({key: ",".join(["NULL"] * len(outputs)) for key in _OUTPUT_LISTS})
    for key in ("inFiles", "outFiles"):
        given.pop(key, None)
    merged = {**defaults, **{key: value for key, value in given.items() if value is not None}, "PandaID": job_id}
    extra = [key for key in merged if key not in DISPATCH_ORDER and key not in LAST_FIELDS]
    return {key: merged[key] for key in (*DISPATCH_ORDER, *extra, *LAST_FIELDS) if key in merged}


def _elements(value: Any) -> Sequence[str]:
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return str(value).split(",") if value else []


def _resource_type(core_count: Any, memory: Any) -> str:
    """SCORE, MCORE, with _HIMEM above 2000 MB per core (the recorded table of resource types)."""
    cores = as_key(core_count) or 1
    himem = (as_key(memory) or 0) / cores > 2000
    return ("SCORE" if cores == 1 else "MCORE") + ("_HIMEM" if himem else "")
