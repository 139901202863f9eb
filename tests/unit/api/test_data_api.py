"""pilot.api.data for other programs: what Harvester calls, what it gets back, and what stays as it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Iterator

import pytest

from pilot.api.data import StageInClient, StageOutClient
from pilot.common.exception import PilotException
from pilot.copytool.base import Features, Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.info import FileSpec, InfoService
from pilot.info.config import SourceConfig
from pilot.info.job import Job
from pilot.settings import default_settings
from pilot.staging.context import TransferRecord
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress

QUEUE = {"nickname": "Q", "state": "ACTIVE", "status": "online", "acopytools": {"default": ["mv"]},
         "copytools": {"mv": {"copy_in": "cp", "copy_out": "cp"}}, "maxwdir": 1000}


class Place:
    """A queue, a directory with files, and one for them."""

    def __init__(self, base: Path) -> None:
        self.base, self.store, self.work = base, base / "store", base / "work"
        self.store.mkdir()
        self.work.mkdir()
        self.queue()

    def queue(self, **changes: Any) -> InfoService:
        (self.base / "queuedata.json").write_text(json.dumps({"Q": {**QUEUE, **changes}}))
        self.infosys = InfoService(SourceConfig(cache_dir=self.base, local_dirs=(self.base,)))
        self.infosys.init("Q")
        return self.infosys

    def file(self, name: str, content: bytes = b"content", **fields: Any) -> FileSpec:
        (self.store / name).write_bytes(content)
        return FileSpec(lfn=name, workdir=self.work, filesize=len(content), scope="s",
                        checksum={"adler32": f"{zlib.adler32(content):08x}"}, **fields)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- as Harvester calls it --------------------------------------------------------------------------------------------


def test_harvesters_preparator_gets_its_files_in_several_threads(place: Place) -> None:
    """The calls of ``pilotmover_mt_preparator``: same names, same arguments; only the copytool is another one."""
    infosys = place.infosys
    names = [f"file-{number}" for number in range(9)]
    specs = []
    for name in names:
        (place.store / name).write_bytes(name.encode())
        file_data = {"scope": "s", "dataset": None, "lfn": name, "ddmendpoint": None, "guid": None,
                     "workdir": str(place.work)}
        specs.append(FileSpec(type="input", **file_data))
    results: list[Any] = []

    def stage_in(files: list[FileSpec]) -> None:
        infosys.init("Q", infosys.confinfo, infosys.extinfo)
        infosys.queuedata.direct_access_lan = False
        infosys.queuedata.direct_access_wan = False
        client = StageInClient(infosys, acopytools={"default": ["mv"]}, default_copytools="mv")
        results.extend(client.transfer(files, use_vp=False, input_dir=place.store))

    threads = [threading.Thread(target=stage_in, args=(specs[start::3],)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(id(spec) for spec in results) == sorted(id(spec) for spec in specs), "the very same objects"
    assert [(spec.status, spec.status_code, spec.lfn) for spec in specs] == [("transferred", 0, name) for name in names]
    assert all((place.work / name).read_text() == name for name in names)


def test_direct_access_that_the_caller_switches_off_is_off(place: Place) -> None:
    infosys = place.queue(direct_access_lan=True, allow_lan=True)
    spec = place.file("a.root", accessmode="direct")
    with pytest.raises(PilotException, match="mv does not support direct access"):
        StageInClient(infosys).transfer([spec], input_dir=place.store)
    infosys.queuedata.direct_access_lan = False
    spec.status = None
    StageInClient(infosys).transfer([spec], input_dir=place.store)
    assert spec.status == "transferred"
    with pytest.raises(AttributeError, match="direct_acces_lan"):
        infosys.queuedata.direct_acces_lan = False  # type: ignore[attr-defined]


def test_the_first_interface_of_pilot_2_is_understood(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.base)
    monkeypatch.delenv("PILOT_HOME", raising=False)
    place.file("a.txt", b"one")
    client = StageInClient(site="Q", acopytools="mv")
    good = {"scope": "s", "name": "a.txt", "destination": str(place.work)}
    bad = {"scope": "s", "name": "gone.txt", "destination": str(place.work)}
    one, other = client.transfer([good, bad], input_dir=place.store)
    assert (one["errno"], one["status"], one["name"]) == (0, "transferred", "a.txt")
    assert (other["errno"], other["status"]) == (1331, "failed") and "gone.txt not found" in other["errmsg"]
    assert (place.work / "a.txt").read_bytes() == b"one"


# --- in ---------------------------------------------------------------------------------------------------------------


def test_each_file_has_its_outcome_and_the_first_cause_is_raised(place: Place) -> None:
    good, wrong = place.file("a.txt"), place.file("b.txt")
    wrong.checksum = {"adler32": "00000001"}
    missing = FileSpec(lfn="gone.txt", workdir=place.work)
    told: list[TransferRecord] = []
    client = StageInClient(place.infosys, record=told.append)
    with pytest.raises(PilotException, match="checksum verification failed for LFN=b.txt") as caught:
        client.transfer([good, wrong, missing], input_dir=place.store)
    assert caught.value.code == 1171
    assert [(spec.status, spec.status_code) for spec in (good, wrong, missing)] == [
        ("transferred", 0), ("failed", 1171), ("failed", 1331)]
    assert sorted((item.lfn, item.code) for item in told) == [("a.txt", 0), ("b.txt", 1171), ("gone.txt", 1331)]
    assert sorted(path.name for path in place.work.iterdir()) == ["a.txt"], "no half file, no catalogue"


def test_a_finished_file_is_left_alone(place: Place) -> None:
    spec = FileSpec(lfn="gone.txt", status="transferred")
    assert StageInClient(place.infosys).transfer([spec]) == [spec]
    assert StageInClient(place.infosys).transfer([]) == []


def test_a_job_brings_its_overrides(place: Place) -> None:
    spec = place.file("a.txt")
    job = Job(jobid="7", attemptnr=2)
    told: list[TransferRecord] = []
    StageInClient(place.infosys, record=told.append).transfer([spec], job=job, input_dir=place.store)
    assert told[0].transfer_id == "7.2.in.a.txt.1"
    assert job.indata == [] and job.workdir == Path(), "the caller's job is not written to"


@pytest.mark.parametrize(("acopytools", "activity", "expected"), [
    (None, "", "mv"), ("cp", "", "cp"), (["cp", "mv"], "", "cp"), ({"pr": ["cp"], "default": ["ln"]}, "pr", "cp"),
    ({"pr": ["cp"], "default": ["ln"]}, ["xx", "pr"], "cp"), ({"pr": ["cp"], "default": ["ln"]}, "es", "ln"),
    ({"pr": "cp"}, "", "cp"), ({}, "es", "mv"), ({"other": ["cp"]}, "", "ln")])
def test_copytools_follow_argument_activity_and_default(
        place: Place, acopytools: Any, activity: Any, expected: str) -> None:
    told: list[TransferRecord] = []
    client = StageInClient(place.infosys, acopytools, record=told.append, default_copytools="ln")
    client.transfer([place.file("a.txt")], activity, input_dir=place.store)
    assert [item.tool for item in told] == [expected]


def test_an_argument_that_nobody_knows_is_named(place: Place) -> None:
    client = StageInClient(place.infosys)
    with pytest.raises(TypeError, match="use_vpp"):
        client.transfer([place.file("a.txt")], use_vpp=True)
    client.transfer([place.file("b.txt")], usecontainer=False, use_bulk=False, cwd=".", input_dir=place.store)


def test_a_service_without_a_queue_is_refused() -> None:
    with pytest.raises(PilotException, match="not initialized"):
        StageInClient(InfoService())


# --- out --------------------------------------------------------------------------------------------------------------


def test_outputs_are_stored_with_what_the_catalogue_needs(place: Place) -> None:
    out = FileSpec(lfn="out.root", filetype="output", scope="s")
    (place.work / "out.root").write_bytes(b"result")
    old = FileSpec(lfn="old.root", filetype="output", surl=str(place.work / "old.root"))
    (place.work / "old.root").write_bytes(b"older")
    log = FileSpec(lfn="job.log.tgz", filetype="log", workdir=place.work)
    (place.work / "job.log.tgz").write_bytes(b"log")
    client = StageOutClient(place.infosys)
    client.transfer([out, old], workdir=place.work, output_dir=place.store)
    client.transfer([log], output_dir=place.store)
    assert [(spec.status, spec.filesize, spec.checksum) for spec in (out, old, log)] == [
        ("transferred", len(data), {"adler32": f"{zlib.adler32(data):08x}"}) for data in (b"result", b"older", b"log")]
    assert out.surl == f"file://localhost{place.store}/out.root" and len(out.guid) == 36
    assert (place.store / "old.root").read_bytes() == b"older"


def test_a_missing_output_is_1165(place: Place) -> None:
    out = FileSpec(lfn="out.root", filetype="output", workdir=place.work)
    with pytest.raises(PilotException) as caught:
        StageOutClient(place.infosys).transfer([out], output_dir=place.store)
    assert caught.value.code == 1165 and (out.status, out.status_code) == ("failed", 1165)


# --- what other programs give and get ---------------------------------------------------------------------------------


def test_a_file_takes_what_other_programs_have() -> None:
    spec = FileSpec(type="input", lfn="a", guid=None, dataset=None, ddmendpoint=None, scope=None, workdir="/data",  # type: ignore[arg-type]
                    checksum="ad:1a2b3c", filesize="12")  # type: ignore[arg-type]
    assert (spec.guid, spec.dataset, spec.ddmendpoint, spec.scope) == ("", "", "", "")
    assert (spec.workdir, spec.checksum, spec.filesize, spec.filetype) == (
        Path("/data"), {"adler32": "001a2b3c"}, 12, "input")
    assert FileSpec(lfn="a", checksum=None, workdir="").checksum == {}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="checksum of a is 'ad:xyz'"):
        FileSpec(lfn="a", checksum="ad:xyz")  # type: ignore[arg-type]


class Held(MoveTool):
    """Waits for its cancellation."""

    began = threading.Event()

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        self.began.set()
        token.wait()
        token.check()
        raise AssertionError


class Traced(MoveTool):
    """Its attempts are told to Rucio."""

    @property
    def features(self) -> Features:
        return replace(super().features, traced=True)


TOOLS = {"held": f"{__name__}:Held", "traced": f"{__name__}:Traced"}


def test_another_thread_may_break_a_transfer_off(place: Place) -> None:
    settings = default_settings(**{"plugins.copytools": TOOLS})
    client = StageInClient(place.infosys, "held", settings=settings)
    threading.Thread(target=lambda: (Held.began.wait(), client.token.cancel(1200, "not needed any more"))).start()
    spec = place.file("a.txt")
    with pytest.raises(CancelledError, match="not needed any more"):
        client.transfer([spec], input_dir=place.store)
    assert spec.status == "failed"


def test_nothing_of_the_caller_is_changed(place: Place) -> None:
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1]
    before = (os.getcwd(), dict(os.environ), [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(
        signal.SIG_BLOCK, ()), os.umask(0o022), threading.active_count(), len(os.listdir("/proc/self/fd")))
    StageInClient(place.infosys).transfer([place.file("a.txt")], input_dir=place.store)
    after = (os.getcwd(), dict(os.environ), [signal.getsignal(number) for number in numbers], signal.pthread_sigmask(
        signal.SIG_BLOCK, ()), os.umask(before[4]), threading.active_count(), len(os.listdir("/proc/self/fd")))
    assert after[:4] == before[:4] and after[4] == 0o022 and after[5:] == before[5:]


@pytest.fixture
def trace_server() -> Iterator[tuple[str, list[Any]]]:
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/traces/", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_traces_are_sent_in_one_request_with_the_callers_fields(
        place: Place, trace_server: tuple[str, list[Any]]) -> None:
    url, bodies = trace_server
    settings = default_settings(**{"plugins.copytools": TOOLS, "rucio.url": url})
    client = StageInClient(place.infosys, "traced", settings=settings, trace_report={"eventVersion": "harvester"})
    client.transfer([place.file("a.txt", ddmendpoint="RSE"), place.file("b.txt", ddmendpoint="RSE")],
                    input_dir=place.store)
    (traces,) = bodies
    assert sorted((item["filename"], item["clientState"], item["eventVersion"]) for item in traces) == [
        ("a.txt", "DONE", "harvester"), ("b.txt", "DONE", "harvester")]


def test_a_trace_server_that_is_away_costs_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    settings = default_settings(**{"plugins.copytools": TOOLS, "rucio.url": "http://127.0.0.1:1/traces/"})
    spec = place.file("a.txt", ddmendpoint="RSE")
    StageInClient(place.infosys, "traced", settings=settings).transfer([spec], input_dir=place.store)
    assert spec.status == "transferred" and "1 trace(s) were not taken" in caplog.text


def test_the_import_needs_no_client_library() -> None:
    code = ("import sys, pilot.api.data; "
            "print([name for name in ('rucio', 'XRootD', 'gfal2', 'boto3', 'sqlite3') if name in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parents[3])
    assert run.stdout == "[]\n"


def test_the_example_of_the_developer_guide_runs(place: Place) -> None:
    root = Path(__file__).parents[3]
    text = (root / "docs" / "developer-guide.md").read_text()
    example = text.split("## Moving files from another program")[1].split("```python\n")[1].split("```")[0]
    (place.base / "queuedata.json").write_text(json.dumps({"MY_QUEUE": {**QUEUE, "nickname": "MY_QUEUE"}}))
    (place.base / "shelf").mkdir()
    (place.base / "shelf" / "book.txt").write_bytes(b"a long book")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root)}
    run = subprocess.run([sys.executable, "-c", example], cwd=place.base, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    stage_in, *lines = run.stdout.splitlines()
    assert stage_in.startswith("stage-in: 1331 Input file is missing in storage element: ")
    assert lines == ["book.txt transferred 0", "missing.txt failed 1331",
                     f"file://localhost{place.base}/results/count.txt 2 {{'adler32': '0070003d'}}"]
    assert (place.base / "results" / "count.txt").read_text() == "2\n"
