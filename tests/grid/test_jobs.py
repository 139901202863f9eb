"""Whole pilots with real storages: stage-in and stage-out by each tool, fail-over, direct access, abort."""

from __future__ import annotations

import json
import os
import uuid
import zlib
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest

from pilot.copytool.worker import rucio_order
from tests.grid.testbed.rucio import Rucio
from tests.integration.harness import Farm

SCOPE = "mc23"


class Site:
    """A queue of the farm with storages of the testbed."""

    def __init__(self, farm: Farm, rucio: Rucio, directory: Path) -> None:
        self.farm, self.rucio = farm, rucio
        self.storages = directory / "ddm.json"
        rows: Dict[str, Any] = {}
        for number, (name, (scheme, host, port, prefix, _)) in enumerate(rucio.rses.items()):
            endpoint = f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"
            root = scheme == "root"
            protocol = {"endpoint": f"{endpoint}/" if root else endpoint, "path": prefix[1:] if root else prefix,
                        "flavour": scheme.upper(), "id": number}
            protocols = {f"{way}_{net}": [protocol] for way in ("read", "write") for net in ("lan", "wan")}
            rows[name] = {"name": name, "id": number, "state": "ACTIVE", "type": "DATADISK", "is_deterministic": True,
                          "site": "TESTBED", "arprotocols": protocols}
        self.storages.write_text(json.dumps(rows))

    def queue(self, *tools: str, rse: str = "TB_XROOTD", **fields: Any) -> None:
        """Give the queue its tools and its storage."""
        storages = {"read_lan": [rse], "write_lan": [rse]}
        self.farm.set_queue(atlas_site="TESTBED", copytools={tool: {} for tool in tools},
                            acopytools={"default": list(tools)}, **{"astorages": storages, **fields})

    def dataset(self, *rses: str, size: int = 100_000) -> Tuple[str, bytes]:
        """A file that is registered at each of the storages; returns its name and content."""
        name, content = f"in.{uuid.uuid4().hex[:12]}.root", os.urandom(min(size, 1 << 20)) * max(1, size >> 20)
        path = self.farm.inputs / name
        path.write_bytes(content)
        for rse in rses:
            self.rucio.upload(path, rse)
        path.unlink()
        return name, content

    def stored(self, name: str) -> Path:
        """Where a file of TB_XROOTD is on disk."""
        pfn = self.rucio.replicas(SCOPE, name, rse_expression="TB_XROOTD")[0]["rses"]["TB_XROOTD"][0]
        return self.rucio.storage.path(pfn.split("//", 2)[2])

    def submit(self, payload: str, name: str, content: bytes, output: str = "", **fields: Any) -> int:
        """A job with one input and, if wanted, one output."""
        definition: Dict[str, Any] = {
            "inFiles": name, "GUID": str(uuid.uuid4()), "fsize": str(len(content)), "scopeIn": SCOPE,
            "checksum": f"ad:{zlib.adler32(content):08x}", "realDatasetsIn": "mc23.ds", "ddmEndPointIn": "TB_XROOTD",
            "scopeLog": SCOPE, "scopeOut": SCOPE if output else "",
        }
        endpoints = ",".join(["TB_XROOTD"] * (2 if output else 1))
        outputs = [output] if output else []
        return self.farm.submit_job(payload, outputs=outputs, **{**definition, "ddmEndPointOut": endpoints, **fields})

    def run(self, *options: str, **how: Any) -> Any:
        """Run a pilot to its end."""
        return self.farm.run_pilot("--storagedata-url", str(self.storages), *options, files=False, env=self.env, **how)

    @property
    def env(self) -> Dict[str, str]:
        """What the site's set-up gives to pilots."""
        return {**self.rucio.env, "RES_OPTIONS": os.environ.get("RES_OPTIONS", "")}


@pytest.fixture
def site(farm: Farm, rucio: Rucio, tmp_path: Path) -> Site:
    return Site(farm, rucio, tmp_path)


@pytest.mark.parametrize(
    ("tool", "rse"),
    [("xrdcp", "TB_XROOTD"), ("gfal", "TB_GFAL"), ("gfal", "TB_DAVS"), ("rucio", "TB_XROOTD"), ("rucio", "TB_POSIX"),
     ("rucio", "TB_DAVS")],
)
def test_a_job_reads_and_writes_through_each_tool(site: Site, tool: str, rse: str) -> None:
    if (tool, rse) == ("rucio", "TB_DAVS") and rucio_order.gfal2_module() is None:
        pytest.skip("gfal2 is not installed for this version of Python, and the Rucio client has davs by it alone")
    name, content = site.dataset(rse)
    site.queue(tool, rse=rse)
    output = f"out.{uuid.uuid4().hex[:12]}.root"
    job = site.submit(f"cp {name} {output}; echo more >> {output}", name, content, output)
    pilot = site.run()
    assert pilot.process.returncode == 0, pilot.output[-3000:]
    final = site.farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    metadata = json.loads(final["xml"])
    entry = metadata[output]
    stored = content + b"more\n"
    assert (entry["fsize"], entry["adler32"]) == (len(stored), f"{zlib.adler32(stored):08x}")
    assert entry["endpoint"] == rse
    assert entry["surl"].startswith(f"{site.rucio.rses[rse][0]}://")
    assert len(metadata) == 2, "the log is stored, too"
    # what the server does then: the replica is where the report says
    row = {"scope": SCOPE, "name": output, "bytes": entry["fsize"], "adler32": entry["adler32"]}
    site.rucio.call("add_replicas", rse, [row])
    copy = site.farm.directory / "copy"
    site.rucio.call("download_dids", [{"did": f"{SCOPE}:{output}", "base_dir": str(copy)}])
    assert (copy / SCOPE / output).read_bytes() == stored


def test_a_broken_replica_is_replaced_by_the_next_one(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD", "TB_GFAL")
    site.stored(name).write_bytes(content[:-1] + b"x")
    site.queue("xrdcp", rse="TB_XROOTD", astorages={"read_lan": ["TB_XROOTD", "TB_GFAL"], "write_lan": ["TB_XROOTD"]})
    job = site.submit(f"cmp {name} {name}", name, content)
    site.run()
    assert site.farm.final(job)["state"] == "finished"
    (launch,) = site.farm.pilots
    rows = launch.store().transfers(str(job))
    inputs = [(row["code"], row["status"]) for row in rows if row["lfn"] == name]
    assert inputs == [(1171, "AD_MISMATCH"), (0, "DONE")]


def test_a_tool_that_is_missing_leaves_the_work_to_the_next_one(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD")
    site.queue("lsm", "xrdcp")
    job = site.submit("true", name, content)
    site.run()
    assert site.farm.final(job)["state"] == "finished"


def test_a_file_without_replica_fails_with_what_rucio_has(site: Site) -> None:
    site.queue("xrdcp", "rucio")
    job = site.submit("true", "nosuch.root", b"content")
    site.run()
    final = site.farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1326)
    assert "nosuch.root" in final["pilotErrorDiag"]
    assert json.loads(final["xml"]), "the log left all the same"


def test_remote_inputs_stay_where_they_are_and_are_opened_before_the_payload(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD")
    site.queue("xrdcp", direct_access_lan=True)
    catalog = site.farm.directory / "catalog.xml"
    job = site.submit(f"cp PoolFileCatalog.xml {catalog}; test ! -e {name}", name, content, transferType="direct")
    pilot = site.run()
    assert site.farm.final(job)["state"] == "finished"
    assert f'name="root://127.0.0.1:{site.rucio.storage.port}//rucio/' in catalog.read_text()
    assert "direct access: root replica at TB_XROOTD (LAN)" in pilot.output


def test_a_remote_input_that_does_not_open_fails_the_job_before_its_payload(site: Site) -> None:
    name, content = site.dataset("TB_XROOTD")
    site.stored(name).unlink()
    site.queue("xrdcp", direct_access_lan=True)
    began = site.farm.directory / "began"
    job = site.submit(f"touch {began}", name, content, transferType="direct")
    site.run()
    final = site.farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1361)
    assert name in final["pilotErrorDiag"]
    assert not began.exists()


@pytest.mark.parametrize("tool", ["xrdcp", "gfal", "rucio"])
def test_a_signal_in_mid_transfer_leaves_neither_process_nor_partial_file(site: Site, tool: str) -> None:
    name, content = site.dataset("TB_XROOTD", size=600 << 20)
    site.queue(tool)
    job = site.submit("true", name, content)
    pilot = site.farm.start_pilot("--storagedata-url", str(site.storages), files=False, env=site.env)
    pilot.wait_output(f"input {name}: copied")
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    final = site.farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1201)
    assert not [path for path in pilot.directory.rglob("*") if path.name.endswith((".part", name))]


def test_jobs_without_rucio_never_start_python_with_it(site: Site) -> None:
    site.farm.set_queue()
    job = site.farm.submit_job("true")
    pilot = site.farm.run_pilot()
    assert site.farm.final(job)["state"] == "finished"
    assert "helper process" not in pilot.output
