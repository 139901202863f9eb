"""A line as a record: its job, when it was read, and either its own JSON fields or its text."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import NamedTuple


class Record(NamedTuple):
    """What is sent for one line."""

    when: int
    """ns since the epoch."""
    fields: Mapping[str, object]
    text: str
    """``fields`` as JSON, one line of ASCII."""


def make_record(line: str, common: Mapping[str, object]) -> Record:
    """Return the record of a line; its own fields never replace those of the pilot."""
    when = time.time_ns()
    base = {**common, "PilotTimeStamp": round(when / 1e9, 3)}
    own: dict[str, object] = {"message": line}
    if line.lstrip().startswith("{"):
        try:
            found = json.loads(line)
            own = found if isinstance(found, dict) else own
            fields = {**own, **base}
            # no NaN, which is no JSON for anybody else
            return Record(when, fields, json.dumps(fields, allow_nan=False))
        except (ValueError, RecursionError):
            own = {"message": line}
    fields = {**own, **base}
    return Record(when, fields, json.dumps(fields))
