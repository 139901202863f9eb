"""What a job report (jobReport.json) says, in types: read once, used by everybody.

Transforms and user scripts write it; nothing in it can be relied upon. Every value that is missing, or is not what it
should be, counts as not said: the report is never an error because of its form. Fields: payload document, section 15.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Optional

TEXT_LIMIT = 2000
"""Characters that are kept of one message."""
MESSAGES_LIMIT = 200
"""Messages that are kept of all executors."""
_LARGEST = 2**63

_FRONTIER = (
    ("abnormalLines", re.compile(r"Cannot\sfind\sa\svalid\sfrontier\sconnection.*")),
    ("lastNormalLine", re.compile(r"Using\sfrontier\sconnection\sfrontier.*")),
)
_AFTER_LEVEL = re.compile(r"(?:INFO|WARNING)\s+(.*)")


@dataclass(frozen=True)
class ReportPolicy:
    """What an experiment makes of job reports. The default: they are sent, and nothing depends on them."""

    judges: bool = False
    """Exit code and messages of the report are findings about the payload."""
    lists_outputs: bool = False
    """Outputs that the job allows to be missing, and that the report says are, are not stored."""
    demands_outputs: bool = False
    """With ``lists_outputs``: every other output has to be in the report, else the job fails (1165)."""
    required: bool = False
    """A good payload has to leave a report, or metadata.xml: else the job fails (1187)."""
    old_files: bool = False
    """metadata.xml stands in for a report that is not there (metaData, GUIDs, events), AthSummary* for the events."""
    compact: bool = False
    """metaData is JSON without blanks, or empty; no more than 25 warnings of each step are kept."""


@dataclass(frozen=True)
class StepMessage:
    """An ERROR or FATAL message of one step (executor)."""

    step: str
    text: str


@dataclass(frozen=True)
class ReportedFile:
    """An output, as the report has it; sizes in bytes."""

    name: str
    guid: str = ""
    size: Optional[int] = None
    nentries: Optional[int] = None
    """Events in it; None when the report does not know (``UNDEFINED``)."""
    empty: bool = False
    """The report says 0 or null."""


@dataclass(frozen=True)
class JobReportData:
    """A job report. Zero, empty and None mean 'not said'."""

    version: str = ""
    exit_code: Optional[int] = None
    acronym: str = ""
    message: str = ""
    extra: str = ""
    exe_error_code: int = 0
    exe_error_diag: str = ""
    errors: tuple[StepMessage, ...] = ()
    warnings: int = 0
    """Number of warnings of all steps."""
    frontier: tuple[str, ...] = ()
    """What the steps say about connections to Frontier, failed ones first; normal lines are among them."""
    nevents: int = 0
    """Events that the transform has processed."""
    db_time: float = 0.0
    """s in the data base, all steps."""
    db_data: int = 0
    """Bytes from the data base, all steps."""
    db_time_total: float = 0.0
    db_data_total: int = 0
    resimevents: Optional[int] = None
    cpu_time: int = 0
    """CPU s of all steps."""
    cpu_time_total: int = 0
    """CPU s of the transform with its steps."""
    node: str = ""
    cpu_model: str = ""
    memory: Mapping[str, int] = field(default_factory=dict)
    """Avg and Max of all steps by their names (maxPSS, avgRSS, totRCHAR, rateRCHAR ...): tot... added, else largest."""
    inputs: tuple[str, ...] = ()
    outputs: Optional[tuple[ReportedFile, ...]] = None
    """None: the report has no list of outputs (old release); an empty one says that there are none."""

    @property
    def failed(self) -> bool:
        """The report itself says that the transform has failed."""
        return bool(self.exit_code)

    @property
    def entries(self) -> int:
        """Events in all outputs together."""
        return sum(file.nentries or 0 for file in self.outputs or ())

    def output(self, name: str) -> Optional[ReportedFile]:
        """Return the entry of an output."""
        return next((file for file in self.outputs or () if file.name == name), None)


def parse_job_report(tree: Mapping[str, object]) -> JobReportData:
    """Return what ``tree`` (parsed JSON) says; never raises, whatever is in it."""
    resource = _mapping(tree.get("resource"))
    transform, machine = _mapping(resource.get("transform")), _mapping(resource.get("machine"))
    steps = [_mapping(step) for _, step in _named(resource.get("executor"))]
    errors, warnings, frontier = _messages(tree.get("executor"))
    files = _mapping(tree.get("files"))
    resimulated = (_integer(step.get("resimevents")) for step in steps)
    return JobReportData(
        version=_text(tree.get("reportVersion")),
        exit_code=_integer(tree.get("exitCode"), signed=True),
        acronym=_text(tree.get("exitAcronym")),
        message=_text(tree.get("exitMsg")),
        extra=_text(tree.get("exitMsgExtra")),
        exe_error_code=_integer(tree.get("exeErrorCode"), signed=True) or 0,
        exe_error_diag=_text(tree.get("exeErrorDiag")),
        errors=errors, warnings=warnings, frontier=frontier,
        nevents=_integer(transform.get("processedEvents")) or 0,
        db_time=_bounded(sum(_number(step.get("dbTime")) for step in steps)),
        db_data=round(_bounded(sum(_number(step.get("dbData")) for step in steps))),
        db_time_total=_number(resource.get("dbTimeTotal")),
        db_data_total=round(_number(resource.get("dbDataTotal"))),
        resimevents=next((number for number in resimulated if number is not None), None),
        cpu_time=round(_bounded(sum(_number(step.get("cpuTime")) for step in steps))),
        cpu_time_total=round(_number(transform.get("cpuTimeTotal"))),
        node=_text(machine.get("node")),
        cpu_model=_text(machine.get("model_name")),
        memory=_memory(steps),
        inputs=tuple(_text(item.get("name")) for item in _sub_files(files.get("input"))),
        outputs=_outputs(files["output"]) if "output" in files and files["output"] is not None else None,
    )


def _outputs(value: object) -> Optional[tuple[ReportedFile, ...]]:
    if not isinstance(value, (list, dict)):
        return None  # not a list: the report says nothing of its outputs
    found: dict[str, ReportedFile] = {}
    for item in _sub_files(value):
        name = _text(item.get("name")).rsplit("/", 1)[-1]
        if not name:
            continue
        entries = _integer(item.get("nentries"))
        empty = "nentries" in item and (item["nentries"] is None or entries == 0)
        found[name] = ReportedFile(name, _text(item.get("file_guid")), _integer(item.get("file_size")), entries, empty)
    return tuple(found.values())


def _sub_files(value: object) -> Iterator[Mapping[str, object]]:
    for _, entry in _named(value):
        for _, item in _named(_mapping(entry).get("subFiles")):
            if isinstance(item, dict):
                yield item


def _messages(executors: object) -> tuple[tuple[StepMessage, ...], int, tuple[str, ...]]:
    """Return (errors of all steps, number of warnings, lines about Frontier)."""
    errors: list[StepMessage] = []
    frontier: dict[str, list[str]] = {name: [] for name, _ in _FRONTIER}
    warnings = 0
    for label, entry in _named(executors):
        executor = _mapping(entry)
        step = _text(executor.get("name")) or label
        details = _mapping(_mapping(executor.get("logfileReport")).get("details"))
        for level, listed in details.items():
            if level == "WARNING":
                warnings += len(listed) if isinstance(listed, (list, dict)) else 0
            for _, item in _named(listed):
                message = _mapping(item)
                text = _text(message.get("message"))
                if level in ("ERROR", "FATAL") and text and len(errors) < MESSAGES_LIMIT:
                    errors.append(StepMessage(step, text))
                for name, line in _frontier_lines(message.get("moreDetails")):
                    if len(frontier[name]) < MESSAGES_LIMIT:
                        frontier[name].append(line)
    return tuple(errors), warnings, tuple(line for name, _ in _FRONTIER for line in frontier[name])


def _frontier_lines(value: object) -> Iterator[tuple[str, str]]:
    details = _mapping(value)
    for name, pattern in _FRONTIER:
        for text in _texts(details.get(name)):
            match = pattern.search(text)
            if match:
                after = _AFTER_LEVEL.search(text)
                yield name, (after.group(1) if after else match.group()).strip()[:TEXT_LIMIT]


def _texts(value: object, left: int = 1000) -> Iterator[str]:
    """Yield the texts in lists and dictionaries below ``value``, the first ``left`` values, without recursion."""
    waiting = [value]
    while waiting and left > 0:
        left -= 1
        item = waiting.pop()
        if isinstance(item, str):
            yield item[:TEXT_LIMIT]
        elif isinstance(item, (list, dict)):
            values = list(item.values()) if isinstance(item, dict) else item
            waiting.extend(reversed(values[:left]))


def _memory(steps: list[Mapping[str, object]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in steps:
        memory = _mapping(step.get("memory"))
        for part in ("Avg", "Max"):
            for name, value in _mapping(memory.get(part)).items():
                number = _integer(value)
                if number is not None and name[:3].isalpha() and len(name) < 32:
                    known = found.get(name, 0)
                    found[name] = known + number if name.startswith("tot") else max(known, number)
    return found


# --- one value, whatever it is ---------------------------------------------------------------------------------------


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _named(value: object) -> Iterator[tuple[str, object]]:
    """Yield (name, item) of a dictionary, ('', item) of a list, nothing of anything else."""
    if isinstance(value, dict):
        yield from ((str(name), item) for name, item in value.items())
    elif isinstance(value, list):
        yield from (("", item) for item in value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value[:TEXT_LIMIT].strip()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)[:TEXT_LIMIT] if abs(value) < _LARGEST else ""
    return ""


def _integer(value: object, *, signed: bool = False) -> Optional[int]:
    """Return a whole number below 2**63; texts of digits count, fractions are rounded, and nothing else."""
    number = value
    if isinstance(number, str):
        digits = number.strip()
        if len(digits) > 20 or not re.fullmatch(r"[-+]?[0-9]+", digits):
            return None
        number = int(digits)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        return None
    if isinstance(number, float) and not math.isfinite(number):
        return None
    if abs(number) >= _LARGEST or (number < 0 and not signed):
        return None
    return round(number)


def _number(value: object) -> float:
    """Return a finite number >= 0; 0.0 for anything else."""
    number: object = value
    if isinstance(number, str) and len(number) < 40:
        try:
            number = float(number)
        except ValueError:
            return 0.0
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < _LARGEST:
        return 0.0
    return float(number)


def _bounded(total: float) -> float:
    return float(total) if total < _LARGEST else 0.0
