"""From the job definition to the shell line; transforms from a real HTTP server."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilot.common.exception import CommunicationFailure, PilotException
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadTask
from pilot.info.queuedata import QueueData
from pilot.info.remoteinputs import replace_names
from pilot.options import Options
from pilot.payload.command import (
    PRIVATE_VARIABLES,
    build_environment,
    resolve_transformation,
    shell_argv,
    write_input_lists,
)
from pilot.payload.transform import GENERIC_BASES, Fetch, allowed_bases, get_transform, is_allowed, make_executable
from pilot.settings import load_settings
from pilot.user.base import Experiment
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.fetch import FetchError, fetch

SETTINGS = load_settings(Options(), {})
ENVIRON = {"PATH": os.environ["PATH"]}


def no_fetch(url: str) -> bytes:
    raise AssertionError(f"nothing must be downloaded: {url}")


def script(path: Path, mode: int = 0o755, text: str = "#!/bin/bash\necho \"$0\" \"$@\"\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def line_of(job: Job, workdir: Path, bases: Sequence[str] = (), fetcher: Fetch = no_fetch,
            remote: Mapping[str, str] | None = None) -> str:
    """The line of an experiment that changes nothing, made as control/plan.py makes it."""
    job.workdir = workdir

    def transformation() -> str:
        return resolve_transformation(job, workdir, bases, fetcher, environ=ENVIRON)

    names = remote or {}
    task = PayloadTask(
        job=job, queue=QueueData("Q"), options=Options(), settings=SETTINGS, environ=ENVIRON, home=workdir,
        parameters=replace_names(write_input_lists(job, workdir, names), names), transformation=transformation,
        download=str)
    return Experiment().payload_command(task).line


@pytest.mark.parametrize(
    ("transformation", "parameters", "line"),
    [
        ("/bin/echo", "hello from PanDA", "/bin/echo hello from PanDA"),
        ("echo", "hello from PanDA", "echo hello from PanDA"),
        ("tool", "a b", "./tool a b"),
        ("./tool", "", "./tool"),
        ("my tool", "x", "'./my tool' x"),
        ("a;b", "x", "'./a;b' x"),
        ("plain.py", "-x", "python3 ./plain.py -x"),
        ("shebang.sh", "", "./shebang.sh"),
        ("bash -c 'exit 3'", "", "bash -c 'exit 3'"),
        ("tool --fast", "$PWD", "./tool --fast $PWD"),
        (" echo ", " a  'b c' ", "echo  a  'b c'"),
    ],
)
def test_the_first_form_that_fits_is_taken(
    tmp_path: Path, transformation: str, parameters: str, line: str
) -> None:
    for name in ("tool", "my tool", "a;b"):
        script(tmp_path / name)
    script(tmp_path / "plain.py", 0o644, "print(1)\n")
    script(tmp_path / "shebang.sh", 0o644)
    assert line_of(Job("1", transformation=transformation, jobparams=parameters), tmp_path) == line


def test_a_file_of_the_work_directory_comes_before_the_command_of_that_name(tmp_path: Path) -> None:
    script(tmp_path / "echo")
    assert line_of(Job("1", transformation="echo"), tmp_path) == "./echo"


def test_homepackage(tmp_path: Path) -> None:
    script(tmp_path / "pack" / "run.py", 0o644)
    assert line_of(Job("1", transformation="run.py", homepackage="pack"), tmp_path) == "python3 ./pack/run.py"
    for homepackage in ("NULL", " ", "../pack"):
        with pytest.raises(PilotException) as caught:
            line_of(Job("1", transformation="run.py", homepackage=homepackage), tmp_path)
        assert caught.value.code == 1346


@pytest.mark.parametrize(
    "transformation",
    ["", "NULL", "no-such-command", "../tool", "/etc/passwd", "data.txt", "no-such-command; reboot", "/bin", "file:///x"],
)
def test_what_cannot_be_run_is_1346(tmp_path: Path, transformation: str) -> None:
    workdir = tmp_path / "work"
    workdir.mkdir()
    script(tmp_path / "tool")
    script(workdir / "data.txt", 0o644, "just text")
    with pytest.raises(PilotException) as caught:
        line_of(Job("1", transformation=transformation), workdir)
    assert caught.value.code == 1346
    assert "Transform not found" in caught.value.diagnosis


def test_the_line_runs_in_bash_as_it_stands(tmp_path: Path) -> None:
    script(tmp_path / "my tool")
    line = line_of(Job("1", transformation="my tool", jobparams="'a b' $((1+1)) > out; exit 5"), tmp_path)
    assert subprocess.run(shell_argv(line), cwd=tmp_path, check=False).returncode == 5
    assert (tmp_path / "out").read_text() == "./my tool a b 2\n"


def test_the_environment_has_the_job_and_not_the_pilots_identity(tmp_path: Path) -> None:
    environ = {**dict.fromkeys(PRIVATE_VARIABLES, "secret"), "PATH": "/bin", "X509_USER_PROXY": "/tmp/p"}
    result = build_environment(Job("77", taskid="5", attemptnr=2), environ, {"EXTRA": "1"})
    assert "secret" not in result.values()
    assert result == {
        "PATH": "/bin", "X509_USER_PROXY": "/tmp/p", "PANDAID": "77", "PandaID": "77", "PanDA_TaskID": "5",
        "PanDA_AttemptNr": "2", "PILOT_EXEC_ITERATION_COUNT": "0", "EXTRA": "1",
    }
    assert "X509_USER_PROXY" not in build_environment(Job("1"), environ, {"X509_USER_PROXY": ""})


@pytest.mark.parametrize(
    ("url", "base", "allowed"),
    [
        ("http://pandaserver.cern.ch:25080/trf/user/runGen-00-00-02", "http://pandaserver.cern.ch", True),
        ("http://PandaServer.cern.ch/trf/x", "http://pandaserver.cern.ch", True),
        ("https://pandaserver.cern.ch:25443/trf/x", "pandaserver.cern.ch", True),
        ("http://pandaserver.cern.ch.evil.org/trf/x", "http://pandaserver.cern.ch", False),
        ("http://pandaserver.cern.ch@evil.org/trf/x", "http://pandaserver.cern.ch", False),
        ("https://pandaserver.cern.ch/trf/x", "http://pandaserver.cern.ch", False),
        ("http://h/base/x", "http://h/base", True),
        ("http://h/base/x", "http://h/base/", True),
        ("http://h/baseball/x", "http://h/base", False),
        ("http://h/base/../x", "http://h/base", False),
        ("http://h/base/%2e%2e/x", "http://h/base", False),
        ("http://h/base/%2E%2E%2Fx", "http://h/base", False),
        ("http://h:81/x", "http://h:80", False),
        ("http://h:80/x", "h:80", True),
        ("http://h:99999/x", "http://h", False),
        ("ftp://h/x", "h", False),
        ("http:///x", "http:///", False),
        ("http://h/x", "", False),
    ],
)
def test_only_urls_below_a_base_are_allowed(url: str, base: str, allowed: bool) -> None:
    assert is_allowed(url, ["http://other", base]) is allowed


def test_where_the_bases_come_from() -> None:
    environ = {"PANDA_BASE_URLS": "http://e"}
    assert allowed_bases("http://a, http://b,", environ, GENERIC_BASES) == ["http://a", "http://b"]
    assert allowed_bases(["http://a"], environ, GENERIC_BASES) == ["http://a"]
    assert allowed_bases("", environ, GENERIC_BASES) == ["http://e"]
    assert allowed_bases(None, {}, GENERIC_BASES) == list(GENERIC_BASES)


class Server:
    """An HTTP server that gives the prepared answers in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                status, body = owner.answers[min(len(owner.asked), len(owner.answers)) - 1]
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    instance = Server()
    yield instance
    instance.httpd.shutdown()
    instance.httpd.server_close()


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.payload.transform._BACKOFF_BASE", 0.001)
    monkeypatch.setattr("pilot.payload.transform._BACKOFF_MAX", 0.001)


SCRIPT = b"#!/bin/bash\necho hello\n"


def download(server: Server, workdir: Path, path: str = "/trf/run-1", token: CancelToken | None = None) -> str:
    def get(url: str) -> bytes:
        return fetch(url, timeout=10)

    return get_transform(server.base + path, workdir, [server.base + "/trf"], get, environ={}, token=token)


def test_a_transform_is_downloaded_and_executable(server: Server, tmp_path: Path) -> None:
    server.answers = [(200, SCRIPT)]
    job = Job("1", transformation=server.base + "/trf/run-1", jobparams="x")
    line = line_of(job, tmp_path, [server.base], fetch)
    assert line == "./run-1 x"
    assert subprocess.run(shell_argv(line), cwd=tmp_path, capture_output=True, check=True).stdout == b"hello\n"
    assert os.listdir(tmp_path) == ["run-1"]
    assert (tmp_path / "run-1").stat().st_mode & 0o777 == 0o755
    # It is there now, so it is not asked for again.
    assert line_of(job, tmp_path, [server.base], fetch) == line
    assert server.asked == ["/trf/run-1"]


def test_a_download_is_tried_three_times(server: Server, tmp_path: Path) -> None:
    server.answers = [(503, b""), (200, b""), (200, SCRIPT)]
    assert download(server, tmp_path) == "run-1"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "reason", "tries", "advice"),
    [
        ((500, b"x"), "HTTP 500", 3, ("site", "elsewhere")),
        ((404, b"x"), "HTTP 404", 1, ("user", "never")),
        ((200, b""), "empty", 3, ("user", "same site")),
        ((200, b"\n <!DOCTYPE html><html>Login</html>"), "web page", 3, ("user", "same site")),
        ((200, b'{"error": 1}'), "no program", 3, ("user", "same site")),
    ],
)
def test_a_failed_download_is_1149_and_leaves_nothing(
    server: Server, tmp_path: Path, answer: tuple[int, bytes], reason: str, tries: int, advice: tuple[str, str]
) -> None:
    server.answers = [answer]
    with pytest.raises(PilotException) as caught:
        download(server, tmp_path)
    assert caught.value.code == 1149
    assert reason in caught.value.diagnosis
    assert f"no data was downloaded from {server.base}/trf/run-1" in caught.value.diagnosis
    assert (caught.value.who, caught.value.retry) == advice
    assert len(server.asked) == tries
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["/other/run-1", "/trf/../x", "/trf/", "/trf/..", "/trf/a%2Fb", "/trf/a%00b"])
def test_a_url_outside_of_the_bases_or_without_a_name_is_1149(server: Server, tmp_path: Path, path: str) -> None:
    with pytest.raises(PilotException) as caught:
        download(server, tmp_path, path)
    assert (caught.value.code, caught.value.who, caught.value.retry) == (1149, "user", "never")
    assert server.asked == []


def test_the_query_is_no_part_of_the_name(server: Server, tmp_path: Path) -> None:
    server.answers = [(200, SCRIPT)]
    assert download(server, tmp_path, "/trf/run.sh?version=3") == "run.sh"


def test_a_cancelled_job_stops_trying(tmp_path: Path) -> None:
    token = CancelToken()

    def fail(url: str) -> bytes:
        token.cancel(1144, "killed by the server")
        raise FetchError(url, "no answer", transient=True)

    with pytest.raises(CancelledError) as caught:
        get_transform("http://h/run", tmp_path, ["http://h"], fail, environ={}, token=token)
    assert caught.value.code == 1144


def test_a_wrong_type_of_failure_is_still_1149(tmp_path: Path) -> None:
    def fail(url: str) -> bytes:
        raise CommunicationFailure("name server is away")

    with pytest.raises(PilotException) as caught:
        get_transform("http://h/run", tmp_path, ["http://h"], fail, environ={})
    assert caught.value.code == 1149
    assert "name server is away" in caught.value.diagnosis


def test_a_transform_that_cannot_be_made_executable_is_1143(tmp_path: Path) -> None:
    with pytest.raises(PilotException) as caught:
        make_executable(tmp_path / "vanished")
    assert caught.value.code == 1143 and "vanished: No such file" in caught.value.diagnosis


def test_harvesters_copy_is_taken_and_job_options_with_it(tmp_path: Path) -> None:
    source, workdir = tmp_path / "harv[es]ter", tmp_path / "work"
    workdir.mkdir()
    script(source / "run-1", 0o644)
    script(source / "jobO.abc.tar.gz", 0o644)
    name = get_transform("http://h/run-1", workdir, [], no_fetch, environ={"HARVESTER_WORKDIR": str(source)})
    assert sorted(os.listdir(workdir)) == ["jobO.abc.tar.gz", name]
    assert os.access(workdir / name, os.X_OK)


def test_a_work_directory_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    server.answers = [(200, SCRIPT)]
    with pytest.raises(PilotException) as caught:
        download(server, tmp_path / "gone")
    assert caught.value.code == 1149
    assert "cannot write run-1" in caught.value.diagnosis


def test_lists_of_inputs_are_written_for_the_payload(tmp_path: Path) -> None:
    """``writeToFile``: first line the option, then one LFN per line; the payload is given the file (step 7)."""
    job = Job(jobid="1", transformation="echo", writetofile="inputFor_o.root:a.1,b.2^other:c",
              jobparams="--in=@inputFor_o.root --out=o.root --autoConfiguration=everything -x other")
    assert line_of(job, tmp_path) == "echo @inputFor_o.root.txt --out=o.root -x other.txt"
    assert (tmp_path / "inputFor_o.root.txt").read_text() == "--in\na.1\nb.2\n"
    assert (tmp_path / "other.txt").read_text() == "c\n"
    assert line_of(job, tmp_path).startswith("echo @inputFor_o.root.txt --out")  # a second look changes nothing


def test_inputs_that_stay_remote_have_their_urls_in_parameters_and_lists(tmp_path: Path) -> None:
    job = Job(jobid="1", transformation="echo", writetofile="list:a.root,b.root",
              jobparams="--in=@list --more=a.root,b.root")
    url = "root://se//a.root?x=1&y=2"
    line = line_of(job, tmp_path, remote={"a.root": url})
    assert line == f"echo @list.txt --more='{url}',b.root"
    assert (tmp_path / "list.txt").read_text() == f"--in\n{url}\nb.root\n"


def test_an_experiment_gives_the_urls_of_remote_inputs_but_not_to_build_jobs() -> None:
    remote = FileSpec("a.root", status="remote_io", turl="root://se//a.root")
    job = Job(jobid="1", indata=[remote, FileSpec("b.root", status="transferred")])
    assert Experiment().remote_inputs(job) == {"a.root": "root://se//a.root"}
    job.outdata = [FileSpec("user.x.lib.tgz", "output")]
    assert Experiment().remote_inputs(job) == {}
    assert Experiment().job_parameters(job, "-x") == "-x"


def test_a_list_of_inputs_that_cannot_be_written_fails_the_job(tmp_path: Path) -> None:
    (tmp_path / "inputFor_o.txt").mkdir()
    with pytest.raises(PilotException) as caught:
        line_of(Job(jobid="1", transformation="echo", jobparams="@inputFor_o", writetofile="inputFor_o:a"), tmp_path)
    assert caught.value.code == 1303 and "inputFor_o.txt" in caught.value.detail
