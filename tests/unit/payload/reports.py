"""A job report with every field that the payload document names, in the form of a production transform."""

from __future__ import annotations

import copy
from typing import Any, Dict

_REPORT: Dict[str, Any] = {
    "reportVersion": "2.1.0", "name": "Reco_tf", "cmdLine": "Reco_tf.py --maxEvents 100",
    "created": "2026-01-31T12:00:00",
    "exitCode": 0, "exitAcronym": "OK", "exitMsg": "OK", "exitMsgExtra": "",
    "executor": [
        {"name": "RAWtoALL", "rc": 0, "logfileReport": {
            "countSummary": {"ERROR": 1, "WARNING": 30},
            "details": {
                "ERROR": [{"count": 1, "firstLine": 7, "message": "Py:Something ERROR went wrong"}],
                "WARNING": [{"count": 1, "firstLine": n, "message": f"WARNING number {n}"} for n in range(30)],
            }}},
        {"name": "AODMerge", "rc": 0, "logfileReport": {"details": {"WARNING": [{"message": "WARNING one"}]}}},
    ],
    "files": {
        "input": [{"type": "RAW", "subFiles": [{"name": "in.1", "nentries": 100}, {"name": "in.2", "nentries": 0}]}],
        "output": [
            {"type": "AOD", "subFiles": [
                {"name": "AOD.1.root", "file_guid": "6A1B2C3D-0000-4000-8000-000000000001",
                 "file_size": 1234, "nentries": 70},
                {"name": "AOD.2.root", "file_guid": "6A1B2C3D-0000-4000-8000-000000000002",
                 "file_size": 12, "nentries": 30}]},
            {"type": "HIST", "subFiles": [
                {"name": "HIST.1.root", "file_guid": "6A1B2C3D-0000-4000-8000-000000000003", "nentries": "UNDEFINED"}]},
            {"type": "DESD", "subFiles": [
                {"name": "DESD.1.root", "file_guid": "6A1B2C3D-0000-4000-8000-000000000004", "nentries": None}]},
        ],
    },
    "resource": {
        "dbTimeTotal": 12.5, "dbDataTotal": 2000,
        "executor": {
            "RAWtoALL": {"cpuTime": 1000, "wallTime": 1100, "dbTime": 10.25, "dbData": 1000, "resimevents": None,
                         "memory": {"Avg": {"avgPSS": 1500, "rateRCHAR": 5}, "Max": {"maxPSS": 2000, "totRCHAR": 100}}},
            "AODMerge": {"cpuTime": 50, "dbTime": 2, "dbData": 500, "resimevents": 7,
                         "memory": {"Avg": {"avgPSS": 500, "rateRCHAR": 9}, "Max": {"maxPSS": 900, "totRCHAR": 11}}},
        },
        "machine": {"node": "wn1.example.org", "model_name": "EPYC 7702"},
        "transform": {"cpuTimeTotal": 1060, "processedEvents": 100, "trfPredata": None},
    },
}


def good_report(**changes: Any) -> Dict[str, Any]:
    """A copy of it with other values at the top."""
    return {**copy.deepcopy(_REPORT), **changes}


def failed_report(message: str, code: int = 65, **details: Any) -> Dict[str, Any]:
    """A report of a transform that has failed; ``details`` by level are those of its only step."""
    step = {"name": "RAWtoALL", "logfileReport": {"details": details}}
    return good_report(exitCode=code, exitAcronym="TRF_EXEC_FAIL", exitMsg=message, executor=[step])
