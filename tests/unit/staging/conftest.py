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
from tests.unit.staging.scripted import PLUGINS, First, Rucio, Script

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


class Planned(Site):
    """A site whose queue has the copytools of ``scripted`` and a catalogue that the test fills."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.script = First.script = Script()
        self.rucio = Rucio()

    def plan(self, *tools: str, options: dict[str, Any] | None = None, environ: dict[str, str] | None = None,
             settings: dict[str, Any] | None = None, **queue: Any) -> StagingContext:
        """The surroundings with these tools, in this order."""
        given = {"acopytools": {"default": list(tools or ("first",))}, "copytools": {},
                 "astorages": {"read_lan": ["HERE"], "write_lan": ["HERE", "THERE"]}, **queue}
        ctx = self.context(given, options, **{"plugins__copytools": PLUGINS, **(settings or {})})
        ctx.helpers = self.rucio  # type: ignore[assignment]
        ctx.environ = environ or {}
        ctx.workdir = self.workdir
        ctx.job_id = "42"
        return ctx

    def wanted(self, lfn: str, *pfns: tuple[str, str], size: int = 5, **fields: Any) -> FileSpec:
        """An input of the job with these replicas."""
        values = {"filesize": size, "checksum": {"adler32": "00000001"}, "guid": f"GUID-{lfn}", "scope": "mc23",
                  "ddmendpoint": "HERE", **fields}
        spec = FileSpec(lfn=lfn, **values)
        self.job.indata.append(spec)
        if pfns:
            self.rucio.add(lfn, *pfns)
        return spec


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    return Planned(tmp_path)
