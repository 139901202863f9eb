"""Example jobs of the tests of this directory."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlencode

DATA = Path(__file__).resolve().parents[2] / "data"
JOBS = DATA / "jobs"
RECORDED = DATA / "panda-server-transcripts"
EXAMPLES = ("echo", "production", "analysis", "eventservice", "container", "multistep", "merge")


def example(name, **changes):
    """Return a fresh copy of an example; a value of ... removes the field."""
    job = json.loads((JOBS / f"{name}.json").read_text())
    job.update(changes)
    return {key: value for key, value in job.items() if value is not ...}


def as_form(job):
    """Encode a definition as the old interface does: every value a text, None and dicts as Python reprs."""
    return urlencode({key: str(value) for key, value in job.items()})


def recorded_grants():
    """Return (name, body) of every recorded answer that granted jobs."""
    found = []
    for path in sorted(RECORDED.glob("*/*.json")):
        if "getJob" in path.name or "acquire_jobs" in path.name:
            body = json.loads(path.read_text())["response"]["body"]
            if "PandaID" in body:
                found.append((f"{path.parent.name}/{path.stem}", body))
    return found
