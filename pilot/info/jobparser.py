"""From a job definition of the server, or of a file, to a ``Job``.

Source: job definition document. Whatever is wrong with a definition ends in ``job.defects`` (the job then fails in
validation with a clear diagnosis); only a definition that cannot be attributed to any job is refused with an
exception. Only known fields reach the job, secrets never reach ``job.definition`` or a log.
"""

from __future__ import annotations

import json
import logging
from typing import Callable, Mapping, Optional, TypeVar

from pilot.info.encoding import (
    MAX_LIST,
    BadValue,
    JobRefused,
    defined,
    panda_id,
    show,
    to_bool,
    to_dict,
    to_int,
    to_list,
    to_text,
)
from pilot.info.job import Job
from pilot.info.jobfilespecs import (
    BAD_FIELD,
    BAD_FILE_NAME,
    has_control_characters,
    input_files,
    name_defect,
    output_files,
)
from pilot.info.jobparams import JobParameters, rewrite_job_parameters
from pilot.info.writetofile import parse_write_to_file

__all__ = ["JobRefused", "parse_job"]

logger = logging.getLogger(__name__)

MAX_PARAMETERS = 10 * 1024 * 1024
"""Longest jobPars and writeToFile, characters."""
MAX_TEXT = 100_000
"""Longest other text field, characters."""
MAX_CORES = 1_000_000
MAX_DEFECTS = 20
"""Most defects that are noted for one job; a broken list of 100,000 files has one cause."""
MAX_ID = 10**18

T = TypeVar("T")

# Job attribute -> field, for plain texts and for numbers that are kept as texts.
_TEXTS = {
    "jobname": "jobName",
    "prodsourcelabel": "prodSourceLabel",
    "processingtype": "processingType",
    "produserid": "prodUserID",
    "resourcetype": "resource_type",
    "nucleus": "nucleus",
    "transfertype": "transferType",
    "transformation": "transformation",
    "homepackage": "homepackage",
    "swrelease": "swRelease",
}
_IDS = {
    "taskid": "taskID",
    "jobsetid": "jobsetID",
    "jobdefinitionid": "jobDefinitionID",
    "requestid": "reqID",
}
_NUMBERS = {
    "attemptnr": "attemptNr",
    "maxcpucount": "maxCpuCount",
    "maxwalltime": "maxWalltime",
    "minramcount": "minRamCount",
    "maxdiskcount": "maxDiskCount",
}
_BOOLEANS = {
    "noexecstrcnv": "noExecStrCnv",
    "is_hpo": "isHPO",
    "is_eventservice": "eventService",
    "is_eventservicemerge": "eventServiceMerge",
    "debug": "debug",
    "use_vp": "useVP",
}
_STEPS = ("preprocess", "postprocess", "coprocess")

# Fields that are kept in job.definition, secrets apart: everything that a server is known to send.
_KNOWN = frozenset(
    """StatusCode PandaID nSent taskID jobsetID jobDefinitionID jobName attemptNr reqID prodSourceLabel processingType
    prodUserID currentPriority cloud resource_type nucleus sourceSite transferType transformation jobPars homepackage
    swRelease cmtConfig container_name containerOptions preprocess postprocess coprocess esmergeSpec
    nEventsPerInputFile noExecStrCnv isHPO debug loopingCheck scheduler_ip session_ip coreCount maxCpuCount maxWalltime
    minRamCount maxDiskCount ioIntensity ioIntensityUnit inFiles realDatasetsIn prodDBlocks dispatchDblock
    dispatchDBlockToken prodDBlockToken GUID fsize checksum scopeIn ddmEndPointIn outFiles realDatasets
    destinationDblock destinationDBlockToken dispatchDBlockTokenForOut fileDestinationSE ddmEndPointOut scopeOut
    scopeLog logFile logGUID prodDBlockTokenForOutput destinationSE allowNoOutput writeToFile altStageOut useVP
    putLogToOS usePrefetcher inFilePosEvtNum onSiteMerging cloneJob eventService eventServiceMerge credname
    myproxy""".split()  # noqa: SIM905 - a list literal would take a screen
)


class _Reader:
    """Reads fields of one definition and notes down what does not fit."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self.raw = raw
        self.defects: list[tuple[int, str]] = []
        self.left_out = 0

    def add(self, code: int, text: str) -> None:
        """Note a defect; after the first 20 they are only counted."""
        if len(self.defects) < MAX_DEFECTS:
            self.defects.append((code, text))
        else:
            self.left_out += 1

    def convert(self, field: str, function: Callable[[object], T], default: T) -> T:
        """Return ``function(field)``, or ``default`` with a defect that names the field."""
        try:
            return function(self.raw.get(field))
        except BadValue as exc:
            self.add(BAD_FIELD, f"{field} {exc}")
            return default

    def mapping(self, field: str) -> dict[str, object]:
        """Return a dict field that can be written down as UTF-8, empty when it is not set."""
        nothing: dict[str, object] = {}
        return self.convert(field, _plain_dict, nothing)

    def text(self, field: str, *, limit: int = MAX_TEXT, lines: bool = False) -> str:
        """Return a text field; ``lines`` permits control characters other than NUL."""
        text = self.convert(field, to_text, "")
        if len(text) > limit:
            self.add(BAD_FIELD, f"{field} is absurdly long ({len(text)} characters, limit {limit})")
            return ""
        if not text.isascii() and not _is_unicode(text):
            self.add(BAD_FIELD, f"{field} is not valid UTF-8: {show(text)}")
            return ""
        if "\x00" in text or (not lines and has_control_characters(text)):
            self.add(BAD_FIELD, f"{field} contains control characters: {show(text)}")
            return ""
        return text

    def number(self, field: str) -> int:
        """Return a number field, 0 when it is not set."""
        return self.convert(field, to_int, 0)

    def identifier(self, field: str) -> str:
        """Return a number as text, empty when it is not set."""
        if defined(self.raw.get(field)) is None:
            return ""
        return self.convert(field, lambda value: str(to_int(value, maximum=MAX_ID)), "")


def parse_job(
    raw: Mapping[str, object], *, environ: Optional[Mapping[str, str]] = None, compat_requote: bool = False
) -> Job:
    """Make a job from its definition.

    Args:
        raw: the definition as decoded from JSON, or from a query string (then every value is a text).
        environ: environment of the pilot: ATHENA_PROC_NUMBER replaces the core count, PILOT_LOGFILE the log's name.
        compat_requote: rewrite the job parameters with the quoting of Pilot 2/3, see ``rewrite_job_parameters``.
    Returns:
        The job. ``job.defects`` has (code, text) of each contradiction: 1302 names the field, 1371 and 1190 the file.
    Raises:
        JobRefused: no usable PandaID, so that nobody could be told what became of the job.
    """
    if not isinstance(raw, Mapping):
        raise JobRefused(f"the job definition is {show(raw)}, not an object; job refused")
    environ = {} if environ is None else environ
    reader = _Reader(raw)
    job = Job(jobid=panda_id(raw))
    _read_scalars(reader, job, environ)
    text = reader.text("jobPars", limit=MAX_PARAMETERS, lines=True)
    whole_command = job.noexecstrcnv and "asetup.sh" in text  # quoted anew it would not run any more
    parameters = rewrite_job_parameters(text, compat_requote=compat_requote and not whole_command)
    _read_payload(reader, job, parameters)
    _read_secrets(reader, job)
    _read_files(reader, job, parameters, environ)
    _check(reader, job)
    job.definition = _definition(raw)
    job.defects = reader.defects
    if reader.left_out:
        job.defects.append((BAD_FIELD, f"{reader.left_out} more defects of the same definition"))
    logger.info(
        "job %s: %s, %d inputs, %d outputs, %d log, %d defects",
        job.jobid, show(job.transformation), len(job.indata), len(job.outdata), len(job.logdata), len(job.defects),
    )  # fmt: skip
    return job


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_scalars(reader: _Reader, job: Job, environ: Mapping[str, str]) -> None:
    for attribute, field in _TEXTS.items():
        setattr(job, attribute, reader.text(field))
    for attribute, field in _IDS.items():
        setattr(job, attribute, reader.identifier(field))
    for attribute, field in _NUMBERS.items():
        setattr(job, attribute, reader.number(field))
    for attribute, field in _BOOLEANS.items():
        setattr(job, attribute, reader.convert(field, to_bool, False))
    job.looping_check = reader.convert("loopingCheck", lambda value: to_bool(value, True), True)
    job.altstageout = {"on": True, "force": True, "off": False}.get(reader.text("altStageOut").lower())
    platform, _, alrb = reader.text("cmtConfig").partition("@")
    job.platform, job.alrbuserplatform = platform, alrb
    job.corecount = _core_count(reader, environ)


def _core_count(reader: _Reader, environ: Mapping[str, str]) -> int:
    """Core count; ATHENA_PROC_NUMBER wins if it is a number, words and 0 mean 1 (job definition document, 2.3)."""
    override = environ.get("ATHENA_PROC_NUMBER", "").strip()
    if override.isascii() and override.isdigit() and 0 < len(override) < 7 and int(override) > 0:
        return int(override)
    value = defined(reader.raw.get("coreCount"))
    if isinstance(value, str) and not value.strip("+-0123456789 "):
        value = value.strip()
    elif isinstance(value, str):
        logger.warning("coreCount is %s: 1 core is assumed", show(value))
        return 1
    return reader.convert("coreCount", lambda _: to_int(value, maximum=MAX_CORES), 1) or 1


def _read_payload(reader: _Reader, job: Job, parameters: JobParameters) -> None:
    job.jobparams = parameters.text
    job.zipmap = parameters.zipmap
    job.overwrite_queuedata = parameters.overwrite_queuedata
    job.overwrite_storagedata = parameters.overwrite_storagedata
    job.usetestasetup = parameters.usetestasetup
    job.usetestxrootd = parameters.usetestxrootd
    container = reader.text("container_name")
    job.imagename = parameters.imagename or container
    job.containeroptions = reader.mapping("containerOptions")
    for step in _STEPS:
        setattr(job, step, _step(reader, step))


def _plain_dict(value: object) -> dict[str, object]:
    """Return a dict that can be written down as UTF-8."""
    result = to_dict(value)
    try:
        json.dumps(result, ensure_ascii=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError):
        raise BadValue("contains values that are no texts, or bytes that are not UTF-8") from None
    return result


def _step(reader: _Reader, field: str) -> dict[str, str]:
    """Read ``{"command": ..., "args": ...}``."""
    result = {}
    for key, value in reader.mapping(field).items():
        try:
            text = to_text(value)
        except BadValue as exc:
            reader.add(BAD_FIELD, f"{field}.{show(key)} {exc}")
            continue
        if "\x00" in text or len(text) > MAX_PARAMETERS:
            reader.add(BAD_FIELD, f"{field}.{show(key)} contains NUL or is too long ({len(text)} characters)")
        else:
            result[key] = text
    return result


def _read_secrets(reader: _Reader, job: Job) -> None:
    """Keep secrets as JSON text; a diagnosis never shows them."""
    job.secrets = _secret(reader, "secrets")
    job.pilotsecrets = _secret(reader, "pilotSecrets")


def _secret(reader: _Reader, field: str) -> str:
    secrets = reader.mapping(field)
    return json.dumps(secrets) if secrets else ""


def _read_files(reader: _Reader, job: Job, parameters: JobParameters, environ: Mapping[str, str]) -> None:
    job.indata = input_files(reader.raw, reader)
    for spec in job.indata:
        direct = (job.is_analysis or job.transfertype == "direct") and spec.storage_token != "local"
        spec.accessmode = parameters.accessmode or ("direct" if direct else "copy")
    logfile = reader.convert("logFile", to_text, "").strip(" ")
    replaced = ""
    override = environ.get("PILOT_LOGFILE", "")
    if override and logfile and override != logfile:
        logfile, replaced = override, logfile
    job.outdata, job.logdata = output_files(
        reader.raw, logfile, reader.text("logGUID"), reader.text("scopeLog"), reader, replaced
    )
    names: list[Optional[str]] = reader.convert("allowNoOutput", to_list, [])
    allowed = {name for name in names if name and not has_control_characters(name)}
    for spec in job.outdata:
        if spec.may_be_missing:
            allowed.add(spec.lfn)
        spec.may_be_missing = spec.lfn in allowed
    job.allownooutput = frozenset(allowed)
    job.writetofile = _write_to_file(reader)


def _write_to_file(reader: _Reader) -> str:
    """Return ``writeToFile`` when all the files that it names are safe to write."""
    text = reader.text("writeToFile", limit=MAX_PARAMETERS)
    try:
        names = parse_write_to_file(text)
    except ValueError as exc:
        reader.add(BAD_FIELD, f"writeToFile {exc}")
        return ""
    for name in names:
        defect = name_defect(name) or ("is too long" if len(name) > 250 else "")
        if defect:
            reader.add(BAD_FILE_NAME, f"writeToFile: {show(name)} {defect}")
            return ""
    return text


def _check(reader: _Reader, job: Job) -> None:
    """Checks that need more than one field."""
    status = defined(reader.raw.get("StatusCode"))
    if status is not None and show(status).strip("'") != "0":
        reader.add(BAD_FIELD, f"StatusCode is {show(status)}, a job has 0")
    if defined(reader.raw.get("transformation")) is None and not job.noexecstrcnv:
        reader.add(BAD_FIELD, "transformation is missing")


def _definition(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the known, defined fields; secrets and fields of absurd size are left out."""
    result: dict[str, object] = {}
    for field in _KNOWN:
        value = defined(raw.get(field))
        if value is None or (isinstance(value, (list, tuple, dict)) and len(value) > MAX_LIST):
            continue
        result[field] = value
    return result
