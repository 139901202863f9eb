"""A whole pilot run with --log-format json: every line of every log is an object of the documented schema."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
from harness import Farm

from pilot.util.jsonlog import FIELDS

LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}


def parsed(text: str) -> List[Dict[str, Any]]:
    assert text.endswith("\n") and text.isascii()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line) <= set(FIELDS), line
        assert line["level"] in LEVELS
    return lines


def test_every_line_of_a_run_parses(farm: Farm) -> None:
    first = farm.submit_job("printf '\\033[31mhostile \\377 stuff\\n'; exit 3")
    second = farm.submit_job("true")
    farm.set_queue(timefloor=60)
    pilot = farm.run_pilot("--log-format", "json", "-v", "1", settings={"jobs.pipelining": True})
    assert (farm.final(first)["state"], farm.final(second)["state"]) == ("failed", "finished")
    parsed(pilot.output)  # stdout; nothing has gone to stderr
    logs = sorted(pilot.directory.glob("pilotlog*.txt"))
    assert len(logs) == 3, logs  # one of each job, and the last one under its usual name, too
    for path in logs:
        lines = parsed(path.read_text())
        [about] = [line["fields"] for line in lines if "fields" in line]
        assert about["queue"] == "TEST_QUEUE" and about["schema"] == 1 and about["pid"] == pilot.pid
        assert {line.get("job") for line in lines} & {str(first), str(second)}
    archives = list(farm.outputs.rglob("log.*.tgz"))
    assert len(archives) == 2
    for path in archives:
        with tarfile.open(path) as archive:
            [name] = [name for name in archive.getnames() if Path(name).name == "pilotlog.txt"]
            member = archive.extractfile(name)
            assert member is not None
            assert parsed(member.read().decode())
            page = archive.extractfile(next(name for name in archive.getnames() if name.endswith(".html")))
            assert page is not None
            html = page.read().decode()
            assert "&quot;level&quot;" not in html and re.search(r"\| INFO +\|", html)
    extract = str(farm.final(first).get("pilotLog", ""))
    assert extract.startswith("1305 ") and '"level"' not in extract  # the log says no more than the list


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_failed_start_is_json_too(farm: Farm, how: str) -> None:
    farm.set_queue(state="INACTIVE")
    environment = {"PANDA_PILOT_PILOT__LOG_FORMAT": "json"} if how == "environment" else {}
    options = ["--log-format", "json"] if how == "option" else []
    pilot = farm.run_pilot(*options, env=environment)
    assert pilot.process.returncode != 0
    lines = parsed(pilot.log)
    assert any(line["level"] == "CRITICAL" and "the pilot cannot run" in line["message"] for line in lines)
