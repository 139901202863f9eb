"""From the parallel lists of a job definition to the file specs of inputs, outputs and log.

Source: job definition document, sections 2.4, 3 and 4; data management document, section 1. Element i of a list belongs
to file i of ``inFiles`` or ``outFiles``, also when other elements are skipped. A name that could lead out of the work
directory, or break a command line, never gets into a file spec: it is a defect and its file is left out.
"""

from __future__ import annotations

import logging
import re
from typing import Mapping, NamedTuple, Optional, Protocol

from pilot.info.encoding import BadValue, show, to_int, to_list
from pilot.info.filespec import FileSpec

logger = logging.getLogger(__name__)

BAD_FIELD = 1302
LFN_TOO_LONG = 1190
BAD_FILE_NAME = 1371
MAX_NAME = 255
"""Longest file name: bytes, the limit of every file system in use."""
MAX_PATTERN = 1000
"""Longest pattern of a ``regex|<pattern>`` output, characters."""
# Others search for this text in the diagnoses of failed jobs.
MISSING_SCOPE = "Failed to extract scopeOut parameter from Job structure sent by Panda, please check input format!"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USUAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-_]{1,250}")
_GUID = re.compile(r"[0-9A-Za-z_.{}-]{1,64}")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_INPUT_LISTS = ("realDatasetsIn", "GUID", "fsize", "checksum", "scopeIn", "ddmEndPointIn", "prodDBlockToken")
_OUTPUT_LISTS = ("realDatasets", "ddmEndPointOut", "dispatchDBlockTokenForOut")


class Defects(Protocol):
    """Where contradictions are noted down."""

    def add(self, code: int, text: str) -> None:
        """Note one defect with its pilot error code."""


class Logical(NamedTuple):
    """A file name as sent, and what its form says."""

    lfn: str
    surl: str = ""
    is_tar: bool = False


def has_control_characters(text: str) -> bool:
    """True when ``text`` has line ends, NUL, other control characters or bytes that were not UTF-8."""
    return _CONTROL.search(text) is not None


def name_defect(name: str) -> str:
    """Return why ``name`` must not become a file in the work directory; empty when it may."""
    if name in ("", ".", ".."):
        return "is not a file name"
    if "/" in name:
        return "is absolute" if name.startswith("/") else "contains '/'"
    if has_control_characters(name):
        return "contains control characters, line ends or bytes that are not UTF-8"
    if name.startswith("-"):
        return "starts with '-', commands would take it for an option"
    return ""


def parse_checksum(text: Optional[str]) -> dict[str, str]:
    """Parse ``ad:<hex>``, ``md:<hex>``, ``md5:<hex>`` or a bare value (adler32; md5 when it has 32 digits).

    Returns:
        ``{"adler32": 8 lower case digits}`` or ``{"md5": 32 digits}``; empty when not set. An adler32 value that
        lost its leading zeros gets them back.
    Raises:
        BadValue: not hexadecimal, or of the wrong length.
    """
    prefix, colon, digits = (text or "").rpartition(":")
    if digits in ("", "NULL", "null", "None"):
        return {}
    is_md5 = prefix.lower() in ("md", "md5") or (not colon and len(digits) == 32)
    size = 32 if is_md5 else 8
    if not _HEX.fullmatch(digits) or len(digits) > size or (is_md5 and len(digits) < size):
        raise BadValue(f"is {show(text)}: {'md5' if is_md5 else 'adler32'} has {size} hexadecimal digits")
    return {"md5" if is_md5 else "adler32": digits.lower().zfill(size)}


def logical_name(text: str) -> Logical:
    """Resolve the forms of an LFN: ``zip://<name>`` and ``gs://bucket/path/name`` (job definition document, 4.2)."""
    if text.startswith("zip://"):
        return Logical(text[len("zip://") :], is_tar=True)
    if text.startswith("gs://"):
        return Logical(text.rpartition("/")[2], surl=text)
    return Logical(text)


class Lists:
    """Reads the parallel lists of one side and compares their lengths with the list of names."""

    def __init__(self, raw: Mapping[str, object], names: str, others: tuple[str, ...], defects: Defects) -> None:
        self.defects = defects
        self.names = self.read(raw, names)
        self.columns = {name: self.read(raw, name) for name in others}
        for name, column in self.columns.items():
            self.check_length(name, column, len(self.names), names)

    def read(self, raw: Mapping[str, object], name: str) -> list[Optional[str]]:
        """Return the list in field ``name``; one that cannot be read is a defect and counts as empty."""
        try:
            return to_list(raw.get(name))
        except BadValue as exc:
            self.defects.add(BAD_FIELD, f"{name} {exc}")
            return []

    def check_length(self, name: str, column: list[Optional[str]], size: int, whose: str) -> None:
        """A list may be shorter than its names, but not have more values."""
        if any(value is not None for value in column[size:]):
            self.defects.add(BAD_FIELD, f"{name} has {len(column)} elements, {whose} has {size}: they contradict")

    def text(self, name: str, index: int, lfn: str) -> str:
        """Return an element as text; control characters are a defect."""
        column = self.columns[name]
        value = column[index] if index < len(column) else None
        if value is not None and has_control_characters(value):
            self.defects.add(BAD_FIELD, f"{name} of {show(lfn)} contains control characters: {show(value)}")
            return ""
        return value or ""

    def guid(self, value: str, what: str) -> str:
        """Return ``value`` if it looks like an identifier; anything else is a defect."""
        if value and not _GUID.fullmatch(value):
            self.defects.add(BAD_FIELD, f"{what} is {show(value)}, no identifier")
            return ""
        return value


def input_files(raw: Mapping[str, object], defects: Defects) -> list[FileSpec]:
    """Return the inputs of a job (access mode not yet set); ``NULL`` and repeated names are skipped."""
    lists = Lists(raw, "inFiles", _INPUT_LISTS, defects)
    result: list[FileSpec] = []
    seen: set[str] = set()
    local: dict[str, str] = {}
    for index, name in enumerate(lists.names):
        if name is None or name in seen:
            continue
        seen.add(name)
        form = logical_name(name)
        defect = name_defect(form.lfn) or _url_defect(form) or _length_defect(form.lfn)
        if defect:
            defects.add(BAD_FILE_NAME, f"input {show(name)} {defect}")
            continue
        if form.lfn in local:
            text = f"inputs {show(local[form.lfn])} and {show(name)} would have the same name in the work directory"
            defects.add(BAD_FIELD, text)
            continue
        local[form.lfn] = name
        result.append(_input(lists, index, form))
    return result


def _length_defect(lfn: str) -> str:
    return f"is longer than {MAX_NAME} bytes" if len(lfn.encode("utf-8", "replace")) > MAX_NAME else ""


def _url_defect(form: Logical) -> str:
    return "contains control characters" if has_control_characters(form.surl) else ""


def _input(lists: Lists, index: int, form: Logical) -> FileSpec:
    lfn = form.lfn
    spec = FileSpec(lfn=lfn, filetype="input", surl=form.surl, is_tar=form.is_tar)
    spec.dataset = lists.text("realDatasetsIn", index, lfn)
    spec.guid = lists.guid(lists.text("GUID", index, lfn), f"GUID of {show(lfn)}")
    spec.scope = lists.text("scopeIn", index, lfn)
    spec.ddmendpoint = lists.text("ddmEndPointIn", index, lfn)
    spec.storage_token = lists.text("prodDBlockToken", index, lfn)
    try:
        spec.filesize = to_int(lists.text("fsize", index, lfn))
    except BadValue as exc:
        lists.defects.add(BAD_FIELD, f"fsize of {show(lfn)} {exc}")
    try:
        spec.checksum = parse_checksum(lists.text("checksum", index, lfn))
    except BadValue as exc:
        lists.defects.add(BAD_FIELD, f"checksum of {show(lfn)} {exc}")
    return spec


def output_files(
    raw: Mapping[str, object], logfile: str, logguid: str, scopelog: str, defects: Defects, replaced: str = ""
) -> tuple[list[FileSpec], list[FileSpec]]:
    """Return outputs and log of a job.

    Args:
        raw: the definition.
        logfile: LFN of the log, empty when the job has none.
        logguid: its guid, kept exactly as sent.
        scopelog: its scope.
        defects: takes the contradictions.
        replaced: what ``outFiles`` calls the log when the environment (PILOT_LOGFILE) gave it another name.
    """
    lists = Lists(raw, "outFiles", _OUTPUT_LISTS, defects)
    if replaced:
        lists.names = [logfile if name == replaced else name for name in lists.names]
    scopes = _merged_scopes(lists, lists.read(raw, "scopeOut"), logfile, scopelog)
    outputs: list[FileSpec] = []
    logs: list[FileSpec] = []
    seen: set[str] = set()
    for index, name in enumerate(lists.names):
        if name is None or name in seen:
            continue
        seen.add(name)
        spec = _output(lists, index, name, "log" if name == logfile else "output", scopes)
        if spec is None:
            continue
        if spec.filetype == "log":
            spec.guid = lists.guid(logguid, "logGUID")
            logs.append(spec)
        else:
            outputs.append(spec)
    if logfile and logfile not in seen:
        logger.warning("the log %s is not among outFiles: it has no dataset and no endpoint", show(logfile))
        if _output_name_is_good(logfile, Logical(logfile), "log", defects):
            logs.append(FileSpec(lfn=logfile, filetype="log", guid=lists.guid(logguid, "logGUID"), scope=scopelog))
    return outputs, logs


def _merged_scopes(lists: Lists, scopes: list[Optional[str]], logfile: str, scopelog: str) -> list[Optional[str]]:
    """Walk through outFiles: the log takes scopeLog, every other file the next element of scopeOut."""
    others = [name for name in lists.names if name != logfile]
    real = sum(name is not None for name in others)
    skip_undefined = len(scopes) == real < len(others)
    lists.check_length("scopeOut", scopes, len(others), "outFiles without the log")
    if logfile and len(scopes) < real:
        lists.defects.add(BAD_FIELD, f"{MISSING_SCOPE} ({real} outputs, {len(scopes)} in scopeOut)")
    merged: list[Optional[str]] = []
    remaining = iter(scopes)
    for name in lists.names:
        if logfile and name == logfile:
            merged.append(scopelog)
        else:
            merged.append(None if name is None and skip_undefined else next(remaining, None))
    return merged


def _output_name_is_good(name: str, form: Logical, what: str, defects: Defects) -> bool:
    lfn = form.lfn
    if len(lfn) > MAX_NAME:
        defects.add(LFN_TOO_LONG, f"{what} {show(name)} has {len(lfn)} characters")
        return False
    defect = name_defect(lfn) or _url_defect(form) or ("" if lfn.isascii() else "contains non-ASCII characters")
    if defect:
        defects.add(BAD_FILE_NAME, f"{what} {show(name)} {defect}")
        return False
    return True


def _pattern_of(name: str, defects: Defects) -> Optional[str]:
    """Return the pattern of ``regex|<pattern>`` (server document, 6.7), empty for a plain name, None for a bad one."""
    if not name.startswith("regex|"):
        return ""
    pattern = name[len("regex|") :]
    if not pattern or has_control_characters(pattern) or len(pattern) > MAX_PATTERN:
        defects.add(BAD_FIELD, f"output {show(name)} is no usable regular expression")
        return None
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as exc:
        defects.add(BAD_FIELD, f"output {show(name)} is no valid regular expression: {exc}")
        return None
    return pattern


def _output(lists: Lists, index: int, name: str, filetype: str, scopes: list[Optional[str]]) -> Optional[FileSpec]:
    pattern = _pattern_of(name, lists.defects)
    if pattern is None:
        return None
    form = Logical(name) if pattern else logical_name(name)
    if not pattern and not _output_name_is_good(name, form, filetype, lists.defects):
        return None
    if not pattern and not _USUAL_NAME.fullmatch(form.lfn):
        logger.warning("unusual file name: %s %s", filetype, show(form.lfn))
    spec = FileSpec(lfn=form.lfn, filetype="log" if filetype == "log" else "output")
    spec.surl, spec.is_tar, spec.pattern = form.surl, form.is_tar, pattern
    spec.dataset = lists.text("realDatasets", index, name)
    spec.ddmendpoint = lists.text("ddmEndPointOut", index, name)
    scope = scopes[index] or ""
    if has_control_characters(scope):
        lists.defects.add(BAD_FIELD, f"scope of {show(name)} contains control characters: {show(scope)}")
        scope = ""
    spec.scope = scope
    tokens = re.split(r"[^0-9A-Za-z_]+", lists.text("dispatchDBlockTokenForOut", index, name))
    spec.may_be_missing = filetype != "log" and "an" in tokens
    if filetype != "log" and spec.lfn.endswith(".lib.tgz"):
        import uuid

        spec.guid = str(uuid.uuid4()).upper()
    return spec
