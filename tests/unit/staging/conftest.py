"""Surroundings of staging tests: a queue of local files, a pilot directory, a job, real files."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Callable

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings
from pilot.staging.context import StagingContext, TransferRecord

QUEUE = {
    "nickname": "LOCAL_TEST",
    "state": "ACTIVE",
    "status": "online",
    "type": "production",
    "acopytools": {"default": ["mv"]},
    "copytools": {"mv": {"setup": ""}},
    "maxinputsize": 0,
    "maxwdir": 20000,
}


def adler32(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"


class Site:
    """A pilot directory with one job in it."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.launch = base / "launch"
        self.workdir = self.home / "PanDA_Pilot-42"
        self.launch.mkdir(parents=True)
        self.workdir.mkdir(parents=True)
        self.records: list[TransferRecord] = []
        self.job = Job(jobid="42", workdir=self.workdir)

    def context(
        self, queue: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **settings: Any
    ) -> StagingContext:
        values = {"limits.reserve_space": 0, **{key.replace("__", "."): value for key, value in settings.items()}}
        return StagingContext(
            settings=default_settings(**values),
            options=Options(**(options or {})),
            queue=QueueData.from_raw({**QUEUE, **(queue or {})}),
            pilot_home=self.home,
            launch_dir=self.launch,
            record=self.records.append,
        )

    def with_mv(self, **options: str) -> dict[str, Any]:
        return {"copytools": {"mv": options}}

    def input(self, lfn: str, data: bytes = b"input", *, where: Path | None = None, **fields: Any) -> FileSpec:
        ((where or self.home) / lfn).write_bytes(data)
        values = {"filesize": len(data), "checksum": {"adler32": adler32(data)}, "guid": f"GUID-{lfn}", **fields}
        spec = FileSpec(lfn=lfn, **values)
        self.job.indata.append(spec)
        return spec

    def output(self, lfn: str, data: bytes | None = b"output", **fields: Any) -> FileSpec:
        if data is not None:
            (self.workdir / lfn).write_bytes(data)
        spec = FileSpec(lfn=lfn, filetype="output", **fields)
        self.job.outdata.append(spec)
        return spec


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def make_site() -> Callable[[Path], Site]:
    return Site
