"""Rucio traces of real pilots at a real trace server: complete, joined with the job, and never in anybody's way."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Mapping, Optional

import pytest
from harness import PILOT, PYTHON, QUEUE, Farm, Pilot
from tracesink import TraceSink

from pilot.store.pilotdb import PilotDB

DATA = b"some data"
PLACES = {"ddmEndPointIn": "IN_RSE"}


@pytest.fixture
def sink() -> Iterator[TraceSink]:
    server = TraceSink()
    try:
        yield server
    finally:
        server.close()


def start(farm: Farm, sink: TraceSink, *options: str, settings: Optional[Mapping[str, object]] = None,
          **how: Any) -> Pilot:
    """Start a pilot whose only copytool is traced."""
    farm.set_queue(copytools={"mv": {"copy_in": "cp"}, "traced": {"copy_in": "cp", "copy_out": "cp"}},
                   acopytools={"default": ["traced"]})
    # patience: as long as a loaded machine may need; a pilot that has nothing left to send does not use it up
    fixed = {"plugins.copytools": {"traced": "traced:TracedTool"}, "rucio.url": sink.url, "rucio.trace_patience": 30}
    # a name that every resolver knows
    environ = {"PANDA_HOSTNAME": "127.0.0.1", **how.pop("env", {})}
    return farm.start_pilot(*options, settings={**fixed, **(settings or {})}, env=environ, **how)


def stored(pilot: Pilot) -> List[Dict[str, Any]]:
    """Rows of all transfers in the pilot's databases."""
    rows: List[Dict[str, Any]] = []
    for path in pilot.databases:
        store = PilotDB(path, read_only=True)
        rows += [dict(row) for job in store.jobs() for row in store.transfers(job.job_id)]
        store.close()
    return rows


def waiting(pilot: Pilot) -> int:
    """Number of traces that wait in the pilot's database."""
    store = pilot.store()
    try:
        return store.waiting_traces()
    finally:
        store.close()


def submit(farm: Farm, payload: str = "echo result > out.dat", **fields: Any) -> int:
    return farm.submit_job(payload, inputs={"in.dat": DATA}, outputs=["out.dat"], **{**PLACES, **fields})


def test_every_file_of_a_job_is_traced_and_joined_with_it(farm: Farm, sink: TraceSink) -> None:
    job = submit(farm, prodUserID="Jane Doe", taskID="77", jobDefinitionID="5")
    pilot = start(farm, sink)
    assert pilot.wait() == 0, pilot.output
    log = str(farm.server.job(job)["definition"]["logFile"])
    traces = {trace["filename"]: trace for trace in sink.traces}
    assert set(traces) == {"in.dat", "out.dat", log} and len(sink.traces) == 3
    assert [traces[name]["eventType"] for name in ("in.dat", "out.dat", log)] == ["get_sm", "put_sm", "put_sm"]
    assert {trace["clientState"] for trace in traces.values()} == {"DONE"}
    one = traces["in.dat"]
    assert (one["remoteSite"], one["scope"], one["filesize"], one["protocol"]) == ("IN_RSE", "test", len(DATA), "root")
    assert (one["usrdn"], one["taskid"], one["appid"], one["pq"]) == ("Jane Doe", "77", str(job), QUEUE)
    assert one["ip"].startswith("127.") and one["hostname"] not in ("", "unknown")
    assert traces["out.dat"]["remoteSite"] == traces[log]["remoteSite"] == "TEST_RSE"
    assert traces["out.dat"]["url"].endswith("/out.dat")
    # the join key
    metrics = str(farm.final(job)["jobMetrics"])
    key = re.search(r"(?:^| )transferKey=(\S+)", metrics)
    assert key is not None and key.group(1).startswith(f"{job}."), metrics
    ids = {trace["transferId"] for trace in traces.values()}
    assert ids == {f"{key.group(1)}.in.in.dat.1", f"{key.group(1)}.out.out.dat.1", f"{key.group(1)}.log.{log}.1"}
    assert {str(row["transfer_id"]) for row in stored(pilot)} == ids
    for name in ids:
        assert f"[{name}]" in pilot.log
    status = farm.start([PYTHON, str(PILOT), "--status", str(pilot.directory)])
    status.wait()
    assert all(f"[{name}]" in status.output for name in ids)
    headers = sink.requests[0][0]
    assert headers["User-Agent"].startswith("pilot/") and headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert waiting(pilot) == 0


def test_a_failed_input_is_traced_with_its_reason(farm: Farm, sink: TraceSink) -> None:
    job = submit(farm)
    (farm.inputs / "in.dat").write_bytes(DATA[::-1])
    start(farm, sink).wait()
    first = sink.traces[0]
    assert (first["filename"], first["clientState"]) == ("in.dat", "AD_MISMATCH")
    assert "in.dat" in first["stateReason"]
    assert farm.final(job)["pilotErrorCode"] == 1171
    assert first["transferId"] in farm.final(job)["pilotErrorDiag"]


def test_a_missing_output_is_traced_with_its_own_endpoint_and_scope(farm: Farm, sink: TraceSink) -> None:
    farm.submit_job("echo 1 > one.dat", outputs=["one.dat", "two.dat"], scopeOut="first,second",
                    ddmEndPointOut="RSE_ONE,RSE_TWO,RSE_LOG")
    start(farm, sink).wait()
    (trace,) = [trace for trace in sink.traces if trace["clientState"] == "MISSINGOUTPUTFILE"]
    assert (trace["filename"], trace["remoteSite"], trace["scope"]) == ("two.dat", "RSE_TWO", "second")
    assert "two.dat" in trace["stateReason"]
    assert trace["protocol"] is None


def test_a_transfer_that_a_signal_ends_is_traced_with_the_signals_name(farm: Farm, sink: TraceSink) -> None:
    gate = farm.gate("copyin")
    submit(farm)
    pilot = start(farm, sink)
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    first = sink.traces[0]
    assert (first["filename"], first["clientState"]) == ("in.dat", "STAGEIN_ATTEMPT_FAILED")
    assert "SIGTERM" in first["stateReason"]


@pytest.mark.parametrize("how", ["tool", "option", "environment", "setting"])
def test_no_trace_is_sent_where_none_is_wanted(farm: Farm, sink: TraceSink, how: str) -> None:
    job = submit(farm)
    if how == "tool":
        pilot = farm.start_pilot(settings={"rucio.url": sink.url}, env={"PYTHONPROFILEIMPORTTIME": "1"})
    elif how == "option":
        pilot = start(farm, sink, "--use-rucio-traces", "False")
    elif how == "environment":
        pilot = start(farm, sink, env={"PILOT_USE_RUCIO_TRACES": "False"})
    else:
        pilot = start(farm, sink, settings={"rucio.url": ""})
    assert pilot.wait() == 0
    assert sink.requests == [] and waiting(pilot) == 0
    assert len(stored(pilot)) == 3
    if how == "tool":
        assert "pilot.control.traces" in pilot.output, "the list of imports"
        assert "pilot.staging.trace" not in pilot.output, "a job without traces does not pay for them"
    assert "transferKey=" in farm.final(job)["jobMetrics"]


def test_a_job_without_transfers_has_no_join_key(farm: Farm, sink: TraceSink) -> None:
    job = farm.submit_job("true", log=False)
    assert start(farm, sink).wait() == 0
    assert "transferKey" not in (farm.final(job).get("jobMetrics") or "")


# --- a trace server in trouble ----------------------------------------------------------------------------------------


def test_a_dead_trace_server_changes_nothing_for_the_job(farm: Farm, sink: TraceSink) -> None:
    sink.close()
    job = submit(farm)
    pilot = start(farm, sink)
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"
    assert waiting(pilot) == 3
    assert "3 trace(s) wait in" in pilot.log


def test_the_final_report_does_not_wait_for_a_trace_server_that_hangs(farm: Farm, sink: TraceSink) -> None:
    sink.hold()
    job = submit(farm)
    pilot = start(farm, sink, settings={"rucio.trace_patience": 0.1})
    sink.wait_caller()
    farm.wait_state(job, "holding", "finished")
    assert pilot.wait() == 0
    assert sink.requests == [], "nothing was answered until the pilot had ended"
    assert waiting(pilot) == 3


def test_traces_that_pile_up_behind_a_slow_server_leave_together(farm: Farm, sink: TraceSink) -> None:
    gate = farm.gate("payload")
    sink.hold()
    farm.submit_job(f"{gate.shell()}", inputs={f"in{number}.dat": DATA for number in range(20)}, log=False,
                    ddmEndPointIn=",".join(["IN_RSE"] * 20))
    pilot = start(farm, sink)
    gate.reached()
    sink.release()
    sink.wait(20)
    gate.open()
    assert pilot.wait() == 0
    sizes = [len(traces) for _, traces, _ in sink.requests]
    assert sum(sizes) == 20 and len(sizes) <= 4, sizes


@pytest.mark.parametrize("trouble", [500, 503, 429, 302, b"\x00garbage\r\n\r\n", b""])
def test_traces_are_repeated_until_the_server_takes_them(farm: Farm, sink: TraceSink, trouble: Any) -> None:
    gate = farm.gate("payload")
    sink.answer(trouble, trouble, trouble)
    submit(farm, f"{gate.shell()}echo result > out.dat")
    pilot = start(farm, sink)
    gate.reached()
    sink.wait(1)
    gate.open()
    assert pilot.wait() == 0
    assert sorted(trace["filename"] for trace in sink.traces)[0] == "in.dat" and len(sink.traces) == 3
    assert waiting(pilot) == 0


def test_one_trace_that_is_refused_does_not_take_the_others_along(farm: Farm, sink: TraceSink) -> None:
    gate = farm.gate("payload")
    farm.submit_job(f"{gate.shell()}", inputs={f"in{number}.dat": DATA for number in range(4)}, log=False,
                    ddmEndPointIn=",".join(["IN_RSE"] * 4))
    sink.refused = "in2.dat"
    pilot = start(farm, sink)
    gate.reached()
    sink.wait(3)
    gate.open()
    assert pilot.wait() == 0
    assert sorted(trace["filename"] for trace in sink.traces) == ["in0.dat", "in1.dat", "in3.dat"]
    assert waiting(pilot) == 0
    assert "HTTP 400: the trace server does not like it" in pilot.log


def test_the_report_says_that_traces_did_not_get_away(farm: Farm, sink: TraceSink) -> None:
    gate = farm.gate("payload")
    sink.answer(always=500)
    job = submit(farm, f"{gate.shell()}echo result > out.dat")
    pilot = start(farm, sink)
    gate.reached()
    sink.wait_requests(1)
    gate.open()
    assert pilot.wait() == 0
    assert "rucioTraceError=1" in farm.final(job)["jobMetrics"]


# --- left behind ------------------------------------------------------------------------------------------------------


def killed_with_a_trace(farm: Farm, sink: TraceSink) -> Pilot:
    """A pilot that was killed after its stage-in, while the trace server was away."""
    gate = farm.gate("payload")
    submit(farm, gate.shell())
    sink.answer(always=503)
    pilot = start(farm, sink)
    gate.reached()
    sink.wait_requests(1)
    pilot.kill()
    sink.answer()
    return pilot


def test_recover_delivers_the_traces_of_a_killed_pilot(farm: Farm, sink: TraceSink) -> None:
    pilot = killed_with_a_trace(farm, sink)
    done = farm.recover(pilot.directory, "--set", f"rucio.url={sink.url}")
    assert done.process.returncode == 0, done.output
    assert [trace["filename"] for trace in sink.traces] == ["in.dat"]
    assert "1 trace(s) delivered, 0 left" in done.output
    assert waiting(pilot) == 0


def test_recover_with_a_dead_trace_server_delivers_the_reports_all_the_same(farm: Farm, sink: TraceSink) -> None:
    pilot = killed_with_a_trace(farm, sink)
    sink.close()
    done = farm.recover(pilot.directory, "--set", f"rucio.url={sink.url}")
    assert done.process.returncode == 0, "traces alone are no reason for exit code 79"
    assert "1 report(s) delivered, 0 left" in done.output
    assert "0 trace(s) delivered, 1 left" in done.output


def test_the_next_pilot_in_the_directory_delivers_what_was_left(farm: Farm, sink: TraceSink) -> None:
    pilot = killed_with_a_trace(farm, sink)
    second = start(farm, sink, directory=pilot.directory)
    assert second.wait() == 0
    assert [trace["filename"] for trace in sink.traces] == ["in.dat"]


def test_a_pilot_of_several_jobs_goes_on_sending_in_the_background(farm: Farm, sink: TraceSink) -> None:
    farm.set_queue(timefloor=3600)
    first = submit(farm)
    gate = farm.gate("payload")
    sink.answer(always=503)
    second = submit(farm, f"{gate.shell()}echo result > out.dat")
    pilot = start(farm, sink, "-x", "1")
    gate.reached()
    farm.wait_state(first, "holding", "finished")
    sink.answer()
    sink.wait(4)  # three of the first job and the input of the second, whose payload still runs
    gate.open()
    assert pilot.wait() == 0
    assert {trace["appid"] for trace in sink.wait(6)} == {str(first), str(second)}


def test_unsent_traces_neither_keep_a_work_directory_nor_change_the_exit_code(farm: Farm, sink: TraceSink) -> None:
    sink.answer(always=500)
    submit(farm)
    pilot = start(farm, sink, "-a", "work")
    assert pilot.wait() == 0
    assert "3 trace(s) could not be sent and are lost with the main work directory" in pilot.output
    assert not list((pilot.directory / "work").iterdir())


def test_secrets_in_urls_are_in_no_trace_and_in_no_database(farm: Farm, sink: TraceSink) -> None:
    submit(farm)
    url = "https://s3.example.org/b/in.dat?X-Amz-Signature=deadbeefdeadbeef&X-Amz-Credential=AKIDSECRET"
    pilot = start(farm, sink, env={"TRACED_URL": url})
    assert pilot.wait() == 0
    (trace,) = [trace for trace in sink.traces if trace["filename"] == "in.dat"]
    assert trace["url"].startswith("https://s3.example.org/b/in.dat?") and trace["protocol"] == "https"
    for text in (str(sink.traces), pilot.databases[0].read_bytes().decode("latin-1"), pilot.log):
        assert "deadbeef" not in text and "AKIDSECRET" not in text
