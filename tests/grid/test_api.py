"""pilot.api.data with real storages, called as Harvester's preparators call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, List

import pytest

from tests.grid.testbed.rucio import Rucio
from tests.grid.testbed.site import queue, storages

SCOPE = "mc23"
ROOT = Path(__file__).resolve().parents[2]

# A Harvester thread, nearly word by word: what it imports, calls and looks at.
PREPARATOR = """
import json, os, sys, threading
from pilot.api import data
from pilot.info.filespec import FileSpec as PilotFileSpec
from pilot.info import infosys
site, names, path = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
files = [PilotFileSpec(type="input", scope="mc23", dataset=None, lfn=name, ddmendpoint=None, guid=None, workdir=path)
         for name in names]
def stage_in(files):
    infosys.init(site, infosys.confinfo, infosys.extinfo)
    infosys.queuedata.direct_access_lan = False
    infosys.queuedata.direct_access_wan = False
    data_client = data.StageInClient(infosys, acopytools={"default": ["rucio"]}, default_copytools="rucio")
    try:
        result = data_client.transfer(files, use_vp=False)
        assert [answer.status_code for answer in result] == [0] * len(files)
    except Exception as exc:
        print(json.dumps({"error": str(exc)}))
threads = [threading.Thread(target=stage_in, args=(files[start::2],)) for start in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
living = [pid for pid in children if " Z " not in open(f"/proc/{pid}/stat").read()]
print(json.dumps({"codes": {spec.lfn: spec.status_code for spec in files}, "children": len(living)}))
"""


@pytest.fixture
def node(tmp_path: Path, rucio: Rucio) -> Path:
    """A directory with the documents that CRIC would give."""
    (tmp_path / "queuedata.json").write_text(json.dumps({"Q": queue("Q", ["rucio", "xrdcp"])}))
    (tmp_path / "cric_ddmendpoints.json").write_text(json.dumps(storages(rucio)))
    (tmp_path / "data").mkdir()
    return tmp_path


def run(rucio: Rucio, node: Path, code: str, *argv: str) -> List[Dict[str, Any]]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RES_OPTIONS": os.environ.get("RES_OPTIONS", ""),
           "PANDA_PILOT_RUCIO__URL": f"{rucio.url}/traces/",
           "STORAGEDATA_SERVER_URL": str(node / "cric_ddmendpoints.json"), **rucio.env}
    result = subprocess.run([sys.executable, "-c", code, *argv], cwd=node, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def dataset(rucio: Rucio, node: Path, count: int) -> Dict[str, bytes]:
    files = {f"api.{uuid.uuid4().hex[:12]}": os.urandom(10_000 + number) for number in range(count)}
    for name, content in files.items():
        (node / name).write_bytes(content)
        rucio.upload(node / name, "TB_XROOTD", SCOPE, name)
    return files


def test_harvesters_preparator_gets_its_files_from_rucio(rucio: Rucio, node: Path) -> None:
    files = dataset(rucio, node, 4)
    (answer,) = run(rucio, node, PREPARATOR, "Q", ",".join(files), str(node / "data"))
    assert answer == {"codes": dict.fromkeys(files, 0), "children": 0}
    assert {path.name: path.read_bytes() for path in (node / "data").iterdir()} == files
    traces = rucio.traces(lambda trace: trace.get("filename") in files, len(files))
    assert {(trace["clientState"], trace["remoteSite"]) for trace in traces} == {("DONE", "TB_XROOTD")}


def test_harvesters_preparator_is_told_of_a_file_that_is_not_there(rucio: Rucio, node: Path) -> None:
    (name,) = dataset(rucio, node, 1)
    *errors, answer = run(rucio, node, PREPARATOR, "Q", f"{name},nosuch.root", str(node / "data"))
    assert answer["codes"][name] == 0 and answer["codes"]["nosuch.root"] != 0
    assert len(errors) == 1 and "nosuch.root" in errors[0]["error"]


def test_outputs_are_stored_and_can_be_registered(rucio: Rucio, node: Path) -> None:
    name, content = f"api.out.{uuid.uuid4().hex[:12]}", os.urandom(20_000)
    (node / "data" / name).write_bytes(content)
    code = f"""
import json
from pilot.api.data import StageOutClient
from pilot.info import FileSpec, infosys
infosys.init("Q")
(spec,) = StageOutClient(infosys, ["xrdcp"]).transfer([FileSpec(lfn={name!r}, scope="mc23", workdir="data")])
print(json.dumps([spec.status, spec.ddmendpoint, spec.surl, spec.filesize, spec.checksum]))
"""
    (answer,) = run(rucio, node, code)
    status, endpoint, surl, size, sums = answer  # type: ignore[misc]
    assert (status, endpoint, size, sums) == (
        "transferred", "TB_XROOTD", len(content), {"adler32": f"{zlib.adler32(content):08x}"})
    assert str(surl).startswith("root://")
    rucio.call("add_replicas", endpoint, [{"scope": SCOPE, "name": name, "bytes": size, **sums}])  # type: ignore[dict-item]
    rucio.call("download_dids", [{"did": f"{SCOPE}:{name}", "base_dir": str(node / "copy")}])
    assert (node / "copy" / SCOPE / name).read_bytes() == content
