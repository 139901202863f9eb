"""Whether, what and where to: the decision about real-time logging; records; MessagePack."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilot.info.catchall import CatchAll
from pilot.info.job import Job
from pilot.options import Options
from pilot.payload.realtime.fluent import pack
from pilot.payload.realtime.follow import Follower
from pilot.payload.realtime.plan import Circumstances, make_plan
from pilot.payload.realtime.records import make_record
from pilot.settings import default_settings

OPTION = "logstash;http://option.example:1"
QUEUE = "logging=logstash;http://queue.example:2"
SECRETS = '{"logstash_login": "panda", "logstash_password": "word-of-passage"}'


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(jobid="6000000001", taskid="7", workdir=tmp_path)


def here(catchall: str = "", *, env: dict[str, str] | None = None, server: str = "", debug: bool = False,
         command: str = "", **options: Any) -> Circumstances:
    return Circumstances(
        options=Options(**options), settings=default_settings(), environ=env or {}, catchall=CatchAll(catchall),
        server=server, tls=(False, False) if server else None, verify="/ca", pilot_log=Path("/home/pilotlog.txt"),
        debug=debug, debug_command=command)


@pytest.mark.parametrize(("where", "wanted"), [
    (here(), False), (here(use_realtime_logging=True), True), (here(realtime_logging_server=OPTION), False),
    (here(QUEUE), False), (here(QUEUE + ",loggingfile=a"), True), (here("loggingfile=a"), True),
    (here(debug=True), False), (here(QUEUE, debug=True), True), (here(QUEUE, debug=True, command="debug"), True),
    (here(QUEUE, debug=True, command="tail a.log"), True), (here(QUEUE, debug=True, command="ps aux"), False),
    (here(QUEUE, debug=False, command="tail a.log"), False),
])
def test_when_it_is_on(job: Job, where: Circumstances, wanted: bool) -> None:
    assert (make_plan(job, where) is not None) is wanted


@pytest.mark.parametrize(("secrets", "wanted"), [
    (SECRETS, True), ("{}", False), ("", False), ('{"other": "x"}', False), ("no json", False), ("[1]", False),
    ("[" * 100_000, False),
])
def test_credentials_of_the_job_turn_it_on_in_debug_mode(job: Job, secrets: str, wanted: bool) -> None:
    job.pilotsecrets = secrets
    plan = make_plan(job, here(debug=True))
    assert (plan is not None) is wanted
    if plan is not None:
        assert (plan.login, plan.password) == ("panda", "word-of-passage")
        assert "word-of-passage" not in repr(plan)


@pytest.mark.parametrize(("catchall", "option", "experiment", "expected", "tls"), [
    (QUEUE, OPTION, "logstash;http://exp.example:3", OPTION, (True, "/ca")),
    (QUEUE, "", "logstash;http://exp.example:3", "logstash;http://queue.example:2", (True, "/ca")),
    ("", "", "logstash;http://exp.example:3", "logstash;http://exp.example:3", (False, False)),
    ("", "", "", "logstash;http://aipanda115.cern.ch:8443", (True, "/ca")),
])
def test_the_nearest_server_wins(
    job: Job, catchall: str, option: str, experiment: str, expected: str, tls: tuple[bool, object]
) -> None:
    plan = make_plan(job, here(catchall, server=experiment, use_realtime_logging=True, realtime_logging_server=option))
    assert plan is not None
    assert (str(plan.server), (plan.tls, plan.verify), plan.name) == (expected, tls, "pilot-log")


def test_a_server_that_cannot_be_read_is_named_with_its_origin(job: Job) -> None:
    with pytest.raises(ValueError, match="logging= in the queue's catchall: .*nonsense;"):
        make_plan(job, here("logging=nonsense;,loggingfile=a"))


@pytest.mark.parametrize(("where", "files"), [
    (here(use_realtime_logging=True), ["payload.stdout"]),
    (here("loggingfile=queue.log"), ["queue.log"]),
    (here("loggingfile=queue.log", env={"REALTIME_LOGFILE": "env.log"}), ["env.log"]),
    (here(QUEUE + ",loggingfile=q", env={"REALTIME_LOGFILE": "e"}, debug=True, command="tail -20 deep.log"),
     ["deep.log"]),
    (here("loggingfile=q", env={"REALTIME_LOGFILES": "a:b,c"}, realtime_logging_server=OPTION), ["a", "b", "c"]),
    (here("loggingfile=q", env={"REALTIME_LOGFILES": "a:b,c"}), ["q"]),
])
def test_which_files(job: Job, where: Circumstances, files: list[str]) -> None:
    plan = make_plan(job, where)
    assert plan is not None and [file.name for file in plan.files] == files


def test_analysis_jobs_write_tmp_stdout(job: Job) -> None:
    job.transformation = "https://pandaserver.cern.ch/trf/user/runGen"
    plan = make_plan(job, here(use_realtime_logging=True))
    assert plan is not None and plan.files[0].find() is None
    (job.workdir / "tmp.stdout.1234").write_text("x")
    assert plan.files[0].find() == job.workdir / "tmp.stdout.1234"
    assert plan.files[1].name == "payload.stdout"


def test_a_file_that_is_not_below_its_root_is_not_read(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "job"
    outside.mkdir()
    root.mkdir()
    (outside / "a.log").write_text("private\n")
    (root / "sub").symlink_to(outside)  # as if it was put there after the look at the path
    follower = Follower(lambda: root / "sub" / "a.log", root)
    follower.look()
    assert follower.lines(at_end=True) == []


def test_the_sites_own_paths_are_taken_but_for_secrets(job: Job) -> None:
    plan = make_plan(job, here("loggingfile=/var/log/site.log"))
    assert plan is not None and plan.files[0].find() == Path("/var/log/site.log")
    plan = make_plan(job, here("loggingfile=/tmp/x509up_u500"))
    assert plan is not None and plan.files[0].find() is None


def test_credentials_that_come_later_win(job: Job) -> None:
    job.pilotsecrets = SECRETS
    later = '{"logstash_login": "x", "logstash_password": "newer-word"}'
    plan = make_plan(job, replace(here(debug=True), secrets=later))
    assert plan is not None and plan.password == "newer-word"


@pytest.mark.parametrize("name", ["x509up_u0", "panda_secrets.json", "../outside.log", "my.key"])
def test_files_that_may_hold_secrets_and_those_outside_are_never_found(job: Job, name: str) -> None:
    (job.workdir / name).write_text("x")
    for where in (here(QUEUE, debug=True, command=f"tail {name}"), here(f"loggingfile={name}")):
        plan = make_plan(job, where)
        assert plan is not None and plan.files[0].find() is None


def test_the_file_of_an_operator_is_searched_below(job: Job) -> None:
    (job.workdir / "a" / "b").mkdir(parents=True)
    (job.workdir / "a" / "b" / "athena.log").write_text("x")
    plan = make_plan(job, here(QUEUE, debug=True, command="tail athena.*"))
    assert plan is not None and plan.files[0].find() == job.workdir / "a" / "b" / "athena.log"


@pytest.mark.parametrize(("line", "own"), [
    ("plain", {"message": "plain"}), ('{"a": 1}', {"a": 1}), ("[1]", {"message": "[1]"}),
    ('{"a": ', {"message": '{"a": '}),
    ('{"a": NaN}', {"message": '{"a": NaN}'}), ('{"a": 1e999}', {"message": '{"a": 1e999}'}),
    ('{"TaskID": "other"}', {}), ('{"a":' * 5000, {"message": '{"a":' * 5000}),
])
def test_records(line: str, own: dict[str, object]) -> None:
    record = make_record(line, {"TaskID": "7"})
    fields = json.loads(record.text, parse_constant=lambda name: pytest.fail(name))
    assert abs(fields.pop("PilotTimeStamp") - record.when / 1e9) < 0.001
    assert fields == {"TaskID": "7", **own}
    assert "\n" not in record.text


def test_messagepack() -> None:
    assert pack(["t", {"a": None, "b": True, "c": 1, "d": 1.5}]) == (
        b"\xdd\0\0\0\2\xdb\0\0\0\1t\xdf\0\0\0\4\xdb\0\0\0\1a\xc0\xdb\0\0\0\1b\xc3\xdb\0\0\0\1c\xd3\0\0\0\0\0\0\0\1"
        b"\xdb\0\0\0\1d\xcb\x3f\xf8\0\0\0\0\0\0")
    assert pack(1 << 70) == pack(str(1 << 70))
