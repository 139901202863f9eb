"""Our traces at a real Rucio server: taken as an array, valid by its schema; the transfer id comes through."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

import pytest

from pilot.control.traces import TracePost
from pilot.info.job import Job
from pilot.panda.credentials import Credentials
from pilot.settings import default_settings
from pilot.staging.context import TransferRecord
from pilot.staging.traces import trace_base, trace_of
from pilot.staging.tracesender import deliver_waiting
from pilot.store.pilotdb import DATABASE_NAME, PilotDB
from tests.grid.test_jobs import SCOPE, Site, site  # noqa: F401 - fixtures
from tests.grid.testbed.packages import environment_of
from tests.grid.testbed.rucio import Rucio

VALIDATE = """
import json, sys
from rucio.common.exception import InvalidObject
from rucio.core.trace import validate_schema
def bad(trace):
    try:
        validate_schema(json.dumps(trace))
    except InvalidObject as error:
        print(error)
        return 1
    return 0
print(json.dumps([sum(map(bad, traces)) for traces in json.load(sys.stdin)]))
"""
STATES = ("DONE", "FOUND_ROOT", "NO_REPLICA", "AD_MISMATCH", "MISSINGOUTPUTFILE", "STAGEOUT_ATTEMPT_FAILED")


def stored(path: Path, marker: str, analysis: bool) -> PilotDB:
    """A PilotDB with a trace of each state in both directions."""
    store = PilotDB(path / DATABASE_NAME)
    transformation = "https://trf.example.org/run" if analysis else "Sim_tf.py"
    job = Job(jobid="7", transformation=transformation, produserid="Jane Doe")
    base = trace_base(job, environ={}, pilot_version="2.99", host="127.0.0.1", queue="Q", started=1.5)
    for way in ("stage-in", "stage-out"):
        for state in STATES:
            name = f"{marker}.{way}.{state}"
            url = "" if state == "NO_REPLICA" else "root://se//x"
            record = TransferRecord(way, name, "rucio", "TB_XROOTD", url, 10, 2.5, 0.5, state=state, text="a reason",
                                    transfer_id=f"7.1.{name}.1")
            trace = trace_of(base, record)
            assert trace is not None
            store.add_transfer("7", name, way, status=state, transfer_id=record.transfer_id, trace=trace)
    return store


@pytest.mark.parametrize("analysis", [False, True])
@pytest.mark.parametrize("door", ["plain", "tls"])
def test_rucio_takes_all_our_traces_in_one_request_with_their_ids(
    rucio: Rucio, tmp_path: Path, analysis: bool, door: str
) -> None:
    marker = uuid.uuid4().hex
    store = stored(tmp_path, marker, analysis)
    url = rucio.url if door == "plain" else rucio.x509_url
    post = TracePost(default_settings(**{"rucio.url": f"{url}/traces/"}), Credentials("", str(rucio.pki.ca), {}))
    requests = []

    def counted(body: bytes) -> object:
        requests.append(json.loads(body))
        return post(body)

    sent, left, problem = deliver_waiting(store, counted)  # type: ignore[arg-type]
    store.close()
    assert (sent, left, problem, len(requests)) == (2 * len(STATES), 0, "", 1)
    arrived = rucio.traces(lambda message: marker in str(message.get("filename")), count=2 * len(STATES))
    assert {(message["filename"], message["transferId"]) for message in arrived} == {
        (trace["filename"], f"7.1.{trace['filename']}.1") for trace in requests[0]}


def test_the_schema_of_the_server_is_what_our_tests_have_of_it(rucio: Rucio, tmp_path: Path) -> None:
    store = stored(tmp_path, "x", True)
    traces = [dict(entry.trace) for entry in store.open_traces(100)]
    store.close()
    broken = [{name: value for name, value in trace.items() if name != "dataset"} for trace in traces]
    broken += [{**trace, "stateReason": None} for trace in traces]
    done = subprocess.run([str(environment_of("rucio-server")), "-c", VALIDATE], text=True, capture_output=True,
                          input=json.dumps([traces, broken]), check=True,
                          env={**os.environ, "RUCIO_HOME": str(rucio.directory)})
    assert json.loads(done.stdout.splitlines()[-1]) == [0, len(broken)], done.stdout


@pytest.mark.parametrize("tool", ["rucio", "xrdcp", "gfal"])
def test_the_files_of_a_job_are_traced_and_joined_with_it(site: Site, tool: str) -> None:  # noqa: F811
    name, content = site.dataset("TB_XROOTD")
    site.queue(tool)
    output = f"out.{uuid.uuid4().hex[:12]}.root"
    task = str(uuid.uuid4().int % 10**9)
    job = site.submit(f"cp {name} {output}", name, content, output, taskID=task)
    pilot = site.run(settings={"rucio.url": f"{site.rucio.url}/traces/", "rucio.trace_patience": 30})
    assert pilot.process.returncode == 0, pilot.output[-3000:]
    arrived = site.rucio.traces(lambda message: message.get("taskid") == task, count=3)
    rows = {str(row["lfn"]): row for row in pilot.store().transfers(str(job))}
    assert {trace["filename"]: trace["transferId"] for trace in arrived} == {
        lfn: row["transfer_id"] for lfn, row in rows.items()}
    key = f"transferKey={job}."
    assert key in str(site.farm.final(job)["jobMetrics"])
    for trace in arrived:
        inward = trace["filename"] == name
        assert trace["eventType"] == ("get_sm" if inward else "put_sm")
        assert (trace["clientState"], trace["remoteSite"], trace["protocol"]) == ("DONE", "TB_XROOTD", "root")
        assert (trace["scope"], trace["taskid"]) == (SCOPE, task)
        assert trace["url"].startswith("root://" if inward else "/")
        assert trace["timeStart"] <= trace["transferStart"] <= trace["catStart"] <= trace["timeEnd"]
    seen = [json.loads(line) for line in site.rucio.stomp.messages.read_text().splitlines()]
    own = [message for message in seen if message.get("filename") == name and message.get("eventType") == "download"]
    assert own == [], "the Rucio client's own traces are off"


def test_a_file_that_is_read_where_it_lies_is_traced(site: Site) -> None:  # noqa: F811
    name, content = site.dataset("TB_XROOTD")
    site.queue("xrdcp", direct_access_lan=True)
    task = str(uuid.uuid4().int % 10**9)
    site.submit("true", name, content, transferType="direct", taskID=task)
    site.run(settings={"rucio.url": f"{site.rucio.url}/traces/", "rucio.trace_patience": 30})
    (trace,) = site.rucio.traces(lambda message: message.get("taskid") == task and message.get("filename") == name)
    assert (trace["filename"], trace["clientState"], trace["stateReason"]) == (name, "FOUND_ROOT", "direct_access")
    assert (trace["protocol"], trace["remoteSite"]) == ("root", "TB_XROOTD")
    assert trace["url"].startswith("root://")
