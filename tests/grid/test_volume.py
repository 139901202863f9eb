"""Many files and a very large one, through the planner, from and to real servers."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.options import Options
from pilot.settings import default_settings
from pilot.staging.context import StagingContext
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperPool
from tests.grid.testbed.xrootd import XRootD

COUNT, SMALL = 500, 100_000
LARGE = 5 << 30
"""Bytes: more than 32 bits can say."""


@pytest.fixture
def helpers(tmp_path: Path) -> Iterator[HelperPool]:
    pool = HelperPool(tmp_path)
    yield pool
    pool.close(at_once=True)


def surroundings(xrootd: XRootD, helpers: HelperPool, tmp_path: Path, tool: str) -> Tuple[Job, StagingContext]:
    """A job in an empty directory, on a queue that reads and writes with one tool."""
    work = tmp_path / "work"
    work.mkdir()
    raw: Dict[str, Any] = {"nickname": "Q", "acopytools": {"default": [tool]}, "copytools": {tool: {}},
                           "astorages": {"read_lan": ["RSE"], "write_lan": ["RSE"]}}
    protocol = {"endpoint": f"{xrootd.root_url}//", "path": "volume", "flavour": "XROOTD", "id": 1}
    from pilot.info.storage import StorageData

    endpoint = StorageData.from_raw("RSE", {"is_deterministic": True, "arprotocols": {"write_lan": [protocol]}})
    settings = default_settings(**{"limits.reserve_space": 0})
    context = StagingContext(settings, Options(), QueueData.from_raw(raw), work, work, environ=dict(os.environ),
                             storage=lambda _names: {"RSE": endpoint}, workdir=work, helpers=helpers, job_id="1")
    return Job(jobid="1", workdir=work), context


def replica(xrootd: XRootD, name: str) -> List[Dict[str, str]]:
    return [{"pfn": xrootd.url(f"volume/{name}"), "ddmendpoint": "RSE", "domain": "lan"}]


@pytest.mark.parametrize("tool", ["xrdcp", "gfal"])
def test_five_hundred_small_files_arrive_whole(
    xrootd: XRootD, helpers: HelperPool, tmp_path: Path, tool: str
) -> None:
    job, context = surroundings(xrootd, helpers, tmp_path, tool)
    content = os.urandom(SMALL)
    adler = f"{zlib.adler32(content):08x}"
    for number in range(COUNT):
        name = f"{tool}.{number}"
        xrootd.put(f"volume/{name}", content)
        job.indata.append(FileSpec(name, scope="s", filesize=SMALL, checksum={"adler32": adler}, ddmendpoint="RSE",
                                   replicas=replica(xrootd, name)))
    stage_in(job, context, CancelToken())
    assert {spec.status for spec in job.indata} == {"transferred"}
    assert all((job.workdir / spec.lfn).read_bytes() == content for spec in job.indata)
    left = {path.name for path in job.workdir.iterdir()} - {spec.lfn for spec in job.indata}
    assert left <= {"PoolFileCatalog.xml"}


@pytest.mark.timeout(900)
def test_five_gigabytes_go_out_and_come_back(xrootd: XRootD, helpers: HelperPool, tmp_path: Path) -> None:
    job, context = surroundings(xrootd, helpers, tmp_path, "xrdcp")
    adler = f"{(LARGE % 65521) << 16 | 1:08x}"  # of zeros
    with open(job.workdir / "large", "wb") as sparse:
        sparse.truncate(LARGE)
    output = FileSpec("large", "output", scope="s", ddmendpoint="RSE")
    stage_out(job, [output], context, CancelToken(), log=False)
    assert (output.filesize, output.checksum) == (LARGE, {"adler32": adler})
    (job.workdir / "large").unlink()
    replicas = [{"pfn": output.turl, "ddmendpoint": "RSE", "domain": "lan"}]
    job.indata = [FileSpec("large", scope="s", filesize=LARGE, checksum=output.checksum, ddmendpoint="RSE",
                           replicas=replicas)]
    stage_in(job, context, CancelToken())
    assert job.indata[0].status == "transferred"
    assert (job.workdir / "large").stat().st_size == LARGE
    (job.workdir / "large").unlink()
    stored = next(path for path in (xrootd.data / "volume").rglob("large") if path.is_file())
    assert stored.stat().st_size == LARGE
    stored.unlink()
