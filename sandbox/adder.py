"""The adder: checks the output report of a final message and decides the job's end (server-api.md 6.7)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

EC_ADDER = 200
NO_GUID = "Could not get GUID/LFN/MD5/FSIZE/SURL from pilot JSON"


@dataclass(frozen=True)
class Outcome:
    """What the adder makes of a final report: the job's last state, its files, and the DDM error if there is one."""

    state: str
    files: Mapping[str, str] = field(default_factory=dict)
    ddm_error_code: int = 0
    ddm_error_diag: str = ""


def _names(value: Any) -> list[str]:
    return [name for name in str(value or "").split(",") if name and name != "NULL"]


def _load(report: Optional[str]) -> Optional[dict[str, Any]]:
    """The report as a dictionary of dictionaries, None when it is not one."""
    try:
        data = json.loads(report or "")
    except ValueError:
        return None
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        return None
    return data


def _complete(entry: Mapping[str, Any], is_input: bool) -> bool:
    if not entry.get("guid"):
        return False
    if is_input:
        return True
    try:
        int(entry["fsize"])
    except (KeyError, TypeError, ValueError):
        return False
    return bool(entry.get("adler32") or entry.get("md5sum"))


def _expected_by(lfn: str, expected: list[str]) -> Optional[str]:
    """The expected output that ``lfn`` satisfies: itself, an extra copy ``<lfn>_<n>``/``<lfn>._<n>``, a pattern."""
    if lfn in expected:
        return lfn
    for name in expected:
        if name.startswith("regex|") and re.search(name[len("regex|"):], lfn):
            return name
        if re.fullmatch(re.escape(name) + r"\.?_\d+", lfn):
            return name
    return None


def judge_final(definition: Mapping[str, Any], final: Mapping[str, Any], killed: bool) -> Outcome:
    """The end of a job whose final message (legacy names) was accepted. Pure; ``killed``: a kill is set."""
    asked = str(final.get("state"))
    if asked == "failed":
        if final.get("jobSubStatus") == "pilot_closed":
            return Outcome("closed")
        return Outcome("cancelled" if killed else "failed")
    log = str(definition.get("logFile") or "")
    outputs = _names(definition.get("outFiles"))
    inputs = _names(definition.get("inFiles"))
    report = _load(final.get("xml"))
    if report is None and (outputs or log):
        return Outcome("failed", ddm_error_code=EC_ADDER, ddm_error_diag=NO_GUID)
    report = report or {}
    files: dict[str, str] = {}
    for lfn, entry in report.items():
        expected = _expected_by(lfn, outputs)
        if expected is None and lfn not in inputs:
            return Outcome("failed", files, EC_ADDER, f"pilot produced {lfn} inconsistently with jobdef")
        if not _complete(entry, is_input=expected is None):
            return Outcome("failed", files, EC_ADDER, NO_GUID)
        files[lfn] = "ready" if expected else "skipped"
    optional = set(_names(definition.get("allowNoOutput")))
    produced = {_expected_by(lfn, outputs) for lfn in files}
    for lfn in outputs:
        if lfn in produced:
            continue
        if lfn in optional:
            files[lfn] = "nooutput"
        elif not (definition.get("eventService") == "True" and lfn != log):
            return Outcome("failed", files, EC_ADDER, f"expected output {lfn} is missing in pilot JSON")
    return Outcome("finished", files)
