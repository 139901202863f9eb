"""Makes the tasks of which the tests of payload containers ask commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Optional

from pilot.info.job import Job
from pilot.info.payloadtask import PayloadTask
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings


def never(*_: Any) -> str:
    raise AssertionError("nobody should ask for this")


def task(job: Optional[Mapping[str, Any]] = None, queue: Optional[Mapping[str, Any]] = None,
         environ: Optional[Mapping[str, str]] = None, **settings: object) -> PayloadTask:
    """A task; ``queue`` has external names; settings with ``__`` for the dot."""
    changes = {key.replace("__", "."): value for key, value in settings.items()}
    fields = {"jobid": "1234567", "workdir": Path("/scratch/PanDA_Pilot-1234567"), **(job or {})}
    raw = {"nickname": "Q", "is_cvmfs": True, "container_type": "apptainer:pilot", **(queue or {})}
    return PayloadTask(
        job=Job(**fields), queue=QueueData.from_raw(raw), options=Options(queue="Q"),
        settings=default_settings(**changes), environ=dict(environ or {}), home=Path("/scratch"), parameters="",
        transformation=never, download=never)
