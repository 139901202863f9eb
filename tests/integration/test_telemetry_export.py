"""Traces and metrics of whole pilots, at a real OTLP/HTTP receiver; what a collector may do wrong harms no job."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from harness import HERE, ROOT, Farm
from logservers import make_pki

from pilot.common.errors import ErrorList
from pilot.store.pilotdb import PilotDB
from pilot.telemetry.exporter import Telemetry
from pilot.telemetry.spans import MOST_TRANSFERS, Facts

try:
    import opentelemetry.exporter.otlp.proto.http
    import opentelemetry.sdk  # noqa: F401
    from collector import Collector, attributes
except ImportError:
    if os.environ.get("PILOT_REQUIRE_SERVICES") == "1":
        raise
    pytest.skip("OpenTelemetry is not installed here: 'make venv' installs it", allow_module_level=True)


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def settings(url: str, **more: object) -> Dict[str, object]:
    own = {f"telemetry.{key}": value for key, value in more.items()}
    return {"telemetry.otlp_endpoint": url, "telemetry.patience": 60, **own}


def tree(spans: Any) -> Dict[str, Any]:
    return {f"{span.name} {attributes(span).get('panda.transfer.direction', '')}".strip(): span for span in spans}


def test_a_job_is_a_trace_with_its_stages_and_transfers(farm: Farm, collector: Collector) -> None:
    job = farm.submit_job("cat in.1 > out.1", inputs={"in.1": b"x" * 5000}, outputs=["out.1"], taskID=77)
    pilot = farm.run_pilot(settings=settings(collector.url))
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    spans = tree(collector.spans())
    assert set(spans) == {f"job {job}", "getjob", "validate", "stagein", "payload", "setup", "run", "stageout", "log",
                          "report", "clean", "transfer stage-in", "transfer stage-out", "transfer log"}
    root = spans[f"job {job}"]
    assert {span.trace_id for span in spans.values()} == {hashlib.sha256(f"{job}.1".encode()).digest()[:16]}
    for child, parent in (("stagein", f"job {job}"), ("transfer stage-in", "stagein"), ("run", "payload"),
                          ("transfer log", "stageout")):
        assert spans[child].parent_span_id == spans[parent].span_id
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 1.6e18 for span in spans.values())
    about = attributes(root)
    assert (about["panda.job.id"], about["panda.job.state"], about["panda.task.id"]) == (str(job), "finished", "77")
    moved = attributes(spans["transfer stage-in"])
    assert (moved["panda.transfer.bytes"], moved["panda.transfer.id"]) == (5000, f"{job}.1.in.in.1.1")
    resource = collector.resource()
    assert (resource["service.name"], resource["panda.queue"]) == ("panda-pilot", "TEST_QUEUE")
    assert resource["host.name"] and resource["service.version"]
    assert {header["content-type"] for header in collector.headers} == {"application/x-protobuf"}
    values = collector.values()
    done = [value for about, value in values["panda.transfer.bytes"] if about["panda.transfer.direction"] == "stage-in"]
    assert done == [5000] and values["panda.reports.undelivered"] == [({}, 0)]


def test_of_many_transfers_the_failed_and_the_longest_are_sent(collector: Collector, tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    store.add_job("5", 1, "token", 1000.0, "{}", "run.sh")
    store.add_transition("5", "accepted", "stagein")
    for number in range(MOST_TRANSFERS + 50):
        store.add_transfer("5", f"f{number}", "stage-in", seconds=float(number), size=1, at=2000.0, status="DONE",
                           code=1151 if number == 7 else 0)
    export = Telemetry(type("Section", (), {
        "otlp_endpoint": collector.url, "interval": 60.0, "timeout": 10.0})(), store, {}, "")  # type: ignore[arg-type]
    export.start()
    export.job_ended("5", Facts(), ErrorList())
    export.close(60)
    store.close()
    spans = [span for span in collector.spans() if span.name == "transfer"]
    assert len(spans) == MOST_TRANSFERS and sum(span.status.code == 2 for span in spans) == 1
    [root] = [span for span in collector.spans() if span.name == "job 5"]
    assert attributes(root)["panda.transfers"] == MOST_TRANSFERS + 50
    names = {attributes(span)["panda.transfer.lfn"] for span in spans}
    assert "f7" in names and f"f{MOST_TRANSFERS + 49}" in names and "f0" not in names


def test_what_a_payload_uses_now_is_a_metric(farm: Farm, collector: Collector) -> None:
    place = farm.gate("payload")
    job = farm.submit_job(place.shell())
    pilot = farm.start_pilot(settings={**settings(collector.url, interval=1), "monitor.cpu_interval": 1})
    place.reached()
    pilot.wait_output("payload command")
    [(about, number)] = collector.wait(lambda: collector.values().get("panda.payload.processes"))
    assert about == {"panda.job.id": str(job)} and number >= 1
    place.open()
    assert pilot.wait() == 0


def test_a_failed_job_is_a_failed_span_without_secrets(farm: Farm, collector: Collector) -> None:
    job = farm.submit_job("echo 'ERROR: token=abcdef0123456789' >&2; exit 3")
    farm.run_pilot(settings=settings(collector.url))
    spans = tree(collector.spans())
    root = spans[f"job {job}"]
    assert root.status.code == 2 and attributes(root)["panda.error.code"] == 1305
    assert attributes(root)["panda.payload.exit_code"] == 3 and spans["payload"].status.code == 2
    assert b"abcdef0123456789" not in b"".join(message.SerializeToString() for message in collector.traces)


def test_a_signal_still_brings_the_trace(farm: Farm, collector: Collector) -> None:
    place = farm.gate("payload")
    farm.submit_job(place.shell())
    pilot = farm.start_pilot(settings=settings(collector.url))
    place.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    payload = tree(collector.spans())["payload"]
    assert [event.name for event in payload.events] == ["signal"]


def test_a_collector_that_refuses_gets_it_later(farm: Farm) -> None:
    collector = Collector(answers=(400,))
    jobs = [farm.submit_job() for _ in range(2)]
    farm.set_queue(timefloor=60)
    pilot = farm.run_pilot("-v", "1", settings=settings(collector.url))
    collector.close()
    assert {f"job {job}" for job in jobs} <= set(tree(collector.spans())) and collector.refused == 1
    assert pilot.output.count("does not take what is exported") == 1 and "answers again" in pilot.output


@pytest.mark.parametrize("deaf", [False, True])
def test_no_collector_harms_no_job(farm: Farm, deaf: bool) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if deaf:
            listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        job = farm.submit_job()
        pilot = farm.run_pilot(settings=settings(url, patience=0.2, timeout=60 if deaf else 0.5))
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    told = [line for line in pilot.output.splitlines() if "telemetry: the collector" in line]
    assert len(told) == 1 and "Traceback" not in pilot.output, told


@pytest.mark.parametrize("known", [True, False])
def test_tls_is_verified_against_the_pilots_authorities(farm: Farm, tmp_path: Path, known: bool) -> None:
    server, authority = make_pki(tmp_path)
    collector = Collector(certificate=server)
    job = farm.submit_job()
    options = ["--capath", str(authority)] if known else []
    pilot = farm.run_pilot(*options, settings=settings(collector.url, timeout=5))
    collector.close()
    assert farm.final(job)["state"] == "finished"
    assert bool(collector.traces) is known
    assert ("telemetry: the collector" in pilot.output and "CERTIFICATE_VERIFY_FAILED" in pilot.output) is not known
    assert bool(collector.headers) is known  # not even a header has gone to a stranger


def library(directory: Path, text: str) -> Dict[str, str]:
    (directory / "opentelemetry").mkdir(parents=True)
    (directory / "opentelemetry" / "__init__.py").write_text(text)
    return {"PYTHONPATH": f"{directory}:{HERE}:{ROOT}"}


def test_a_missing_package_is_named_once(farm: Farm, tmp_path: Path) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot(settings=settings("http://127.0.0.1:9"), env=library(tmp_path / "x", "raise ImportError"))
    assert pilot.process.returncode == 0 and farm.final(job)["state"] == "finished"
    assert pilot.output.count("pip install 'panda-pilot[otel]'") == 1 and "Traceback" not in pilot.output


def test_off_means_that_nothing_is_imported(farm: Farm, tmp_path: Path) -> None:
    environment = library(tmp_path / "x", "import os; os.write(2, b'IMPORTED')")
    pilot = farm.run_pilot("-v", "1", env={**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert "IMPORTED" not in pilot.output and "telemetry" not in pilot.output


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://", "http://[", "http://h:99999"])
def test_a_wrong_address_is_told(farm: Farm, url: str) -> None:
    pilot = farm.run_pilot("-v", "1", settings=settings(url))
    assert pilot.output.count("nothing is exported") == 1 and "Traceback" not in pilot.output
