"""Real-time logging of whole pilots against real log servers: what arrives, and that nobody ever waits for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator

import pytest
from harness import Farm
from logservers import HttpLog, LineLog, make_pki
from looks import ended_well

# a loaded machine needs its time, also for the last lines
PLAIN = {"pilot.rtlogging_period": 0.1, "pilot.ssl_enable": False, "pilot.rtlogging_patience": 30}
SHORT = {**PLAIN, "pilot.rtlogging_patience": 0.5}
"""For servers that will never take a line."""
ON = "--use-realtime-logging"


@pytest.fixture
def server() -> Iterator[HttpLog]:
    running = HttpLog()
    yield running
    running.close()


def to(server: Any, kind: str = "logstash", protocol: str = "http") -> tuple[str, str]:
    return "--realtime-logging-server", f"logserver={kind};{protocol}://127.0.0.1:{server.port}"


def test_off_by_default(farm: Farm, server: HttpLog) -> None:
    job = farm.submit_job("echo a line")
    pilot = ended_well(farm.run_pilot(*to(server), settings=PLAIN))
    assert farm.final(job)["state"] == "finished"
    assert server.attempts.all() == [] and "real-time" not in pilot.log


def test_lines_arrive_while_the_payload_runs_and_after_it(farm: Farm, server: HttpLog) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("echo first line\n" + gate.shell() + "echo '{\"level\": \"INFO\", \"PandaJobID\": \"1\"}'\n"
                          "echo export TOKEN=secret.token.value\nprintf 'no line end'", taskID=77, reqID=88)
    pilot = farm.start_pilot(ON, *to(server), settings=PLAIN,
                             env={"HARVESTER_ID": "harvey", "HARVESTER_WORKER_ID": "4711"})
    gate.reached()
    server.wait_message("first line")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert farm.final(job)["state"] == "finished"
    records = server.records()
    assert [record["message"] for record in records if "message" in record] == [
        "first line", "export TOKEN=********", "no line end"]
    for record in records:
        assert record["PandaJobID"] == str(job) and record["TaskID"] == "77" and record["RequestID"] == "88"
        assert record["Harvester_ID"] == "harvey" and record["Harvester_WorkerID"] == "4711"
        assert record["PilotTimeStamp"] > 1e9
    assert [record["level"] for record in records if "level" in record] == ["INFO"]
    assert "4 lines sent, 0 lines dropped" in pilot.log


@pytest.mark.parametrize(("catchall", "env"), [
    ("logging=logstash;http://127.0.0.1:{port},loggingfile=mine.log", {}),
    ("loggingfile=mine.log", {}),
    ("", {"REALTIME_LOGFILE": "mine.log"}),
])
def test_the_queue_and_the_environment_name_server_and_file(
    farm: Farm, server: HttpLog, catchall: str, env: dict[str, str]
) -> None:
    farm.set_queue(catchall=catchall.format(port=server.port))
    job = farm.submit_job("echo not this; echo but this > mine.log")
    ended_well(farm.run_pilot(*([ON] if env else []), env=env, settings={
        **PLAIN, "pilot.rtlogging": f"logstash;http://127.0.0.1:{server.port}"}))
    assert farm.final(job)["state"] == "finished"
    assert server.messages() == ["but this"]


def test_several_files_of_the_environment_with_the_pilots_own_log(farm: Farm, server: HttpLog) -> None:
    job = farm.submit_job("echo aa > a.log; echo bb > b.log")
    ended_well(farm.run_pilot(ON, *to(server), settings=PLAIN,
                              env={"REALTIME_LOGFILES": "a.log,b.log:pilotlog.txt"}))
    assert farm.final(job)["state"] == "finished"
    assert {"aa", "bb"} <= set(server.messages())
    assert any(f"received job: id={job}" in text for text in server.messages())


def test_only_the_pilots_log_is_followed_until_the_job_has_left(farm: Farm, server: HttpLog) -> None:
    job = farm.submit_job("true")
    ended_well(farm.run_pilot(ON, *to(server), settings=PLAIN, env={"REALTIME_LOGFILES": "pilotlog.txt"}))
    assert farm.final(job)["state"] == "finished"
    assert any("final report" in text or "has finished" in text or "log archive" in text or "stage-out" in text
               for text in server.messages()), server.messages()[-5:]


@pytest.mark.parametrize("how", ["link", "fifo", "parent"])
def test_a_payload_cannot_have_other_files_sent(farm: Farm, server: HttpLog, how: str) -> None:
    (farm.directory / "private.txt").write_text("something private\n")
    make = {"link": f"ln -s {farm.directory}/private.txt mine.log", "fifo": "mkfifo mine.log",
            "parent": f"ln -s {farm.directory} mine"}[how]
    job = farm.submit_job(make)
    name = "mine/private.txt" if how == "parent" else "mine.log"
    ended_well(farm.run_pilot(ON, *to(server), settings=PLAIN, env={"REALTIME_LOGFILES": name}))
    assert farm.final(job)["state"] == "finished"
    assert server.messages() == []


def test_a_job_cannot_turn_it_on_or_name_a_server(farm: Farm, server: HttpLog) -> None:
    wish = json.dumps({"catchall": f"loggingfile=payload.stdout,logging=logstash;http://127.0.0.1:{server.port}"})
    job = farm.submit_job("echo a line", jobPars=f"--overwriteQueueData={wish.replace(' ', '')}")
    ended_well(farm.run_pilot(settings=PLAIN))
    assert farm.final(job)["state"] == "finished"
    assert server.attempts.all() == []


def test_tls_is_verified_and_the_jobs_credentials_are_used_and_hidden(farm: Farm, tmp_path: Path) -> None:
    pem, authority = make_pki(tmp_path)
    server = HttpLog(tls=pem)
    secrets = json.dumps({"logstash_login": "pilotlogin", "logstash_password": "verysecretpassword"})
    job = farm.submit_job("echo a line over TLS", pilotSecrets=secrets)
    settings = {**PLAIN, "pilot.ssl_enable": True}
    pilot = ended_well(farm.run_pilot(ON, *to(server, protocol="https"), "--capath", str(authority), settings=settings))
    assert farm.final(job)["state"] == "finished"
    assert server.messages() == ["a line over TLS"]
    assert {posted.login for posted in server.inbox.all()} == {"pilotlogin:verysecretpassword"}
    assert "verysecretpassword" not in pilot.log + pilot.output
    server.close()


def test_without_the_ca_nothing_is_sent_and_the_log_says_why(farm: Farm, tmp_path: Path) -> None:
    pem, _ = make_pki(tmp_path)
    server = HttpLog(tls=pem)
    job = farm.submit_job("echo a line")
    pilot = ended_well(farm.run_pilot(ON, *to(server, protocol="https"), settings=SHORT))
    assert farm.final(job)["state"] == "finished"
    assert server.inbox.all() == []
    assert "CERTIFICATE_VERIFY_FAILED" in pilot.log and "0 lines sent, 1 lines dropped" in pilot.log
    server.close()


def test_credentials_do_not_travel_in_the_clear(farm: Farm, server: HttpLog) -> None:
    job = farm.submit_job("echo a line", pilotSecrets='{"logstash_login": "me", "logstash_password": "secret-word"}')
    pilot = ended_well(farm.run_pilot(ON, *to(server), settings=PLAIN))
    assert farm.final(job)["state"] == "finished"
    assert [posted.login for posted in server.inbox.all()] == [""]
    assert "credentials for the log server are not sent" in pilot.log


@pytest.mark.parametrize("protocol", ["tcp", "tls"])
def test_json_lines_over_a_socket(farm: Farm, tmp_path: Path, protocol: str) -> None:
    pem, authority = make_pki(tmp_path)
    server = LineLog(tls=pem if protocol == "tls" else None)
    job = farm.submit_job("echo one; echo two")
    ended_well(farm.run_pilot(ON, *to(server, protocol=protocol), "--capath", str(authority), settings=PLAIN))
    assert farm.final(job)["state"] == "finished"
    lines = server.lines.wait(lambda items: len(items) >= 2)
    assert [json.loads(line)["message"] for line in lines] == ["one", "two"]
    server.close()


def test_a_connection_that_is_lost_is_made_again(farm: Farm) -> None:
    server, gate = LineLog(), farm.gate("payload")
    farm.submit_job("echo one\n" + gate.shell() + "echo two")
    pilot = farm.start_pilot(ON, *to(server, protocol="tcp"), settings=PLAIN)
    gate.reached()
    server.lines.wait(lambda items: len(items) == 1)
    server.drop()
    server.connections.wait(lambda items: 0 in items)
    gate.open()
    pilot.wait()
    ended_well(pilot)
    lines = server.lines.wait(lambda items: len(items) == 2)
    assert json.loads(lines[1])["message"] == "two"
    server.close()


def test_loki_gets_streams_with_labels_and_what_it_refused_again(farm: Farm) -> None:
    server = HttpLog(status=204)
    server.first += [500, 200, 503]
    job = farm.submit_job("echo one; echo '{\"node\": \"n1\", \"x\": 1}'; echo three")
    ended_well(farm.run_pilot(ON, "--realtime-logname", "Rubin", *to(server, "loki"), settings=PLAIN, env={
        "LOKI_URL": f"http://127.0.0.1:{server.port}/loki/api/v1/push", "LOKI_PERIOD": "0.1",
        "LOKI_LABELKEYS": '["node"]', "LOKI_VERBOSE": "1"}))
    assert farm.final(job)["state"] == "finished"
    statuses = server.attempts.all()
    assert statuses[:4] == [500, 200, 503, 204]
    posted = server.inbox.all()[1:]  # the one with 200 is no success for Loki
    assert {entry.path for entry in posted} == {"/loki/api/v1/push"}
    streams = [stream for entry in posted for stream in entry.body["streams"]]
    base = {"namespace": "usdf-panda", "app": "Rubin", "env": "production"}
    assert all(stream["stream"] in (base, {**base, "node": "n1"}) for stream in streams)
    values = sorted(value for stream in streams for value in stream["values"])
    assert [json.loads(text).get("message", "json") for _, text in values] == ["one", "json", "three"]
    assert len({when for when, _ in values}) == 3 and all(len(when) == 19 for when, _ in values)


def test_a_file_of_the_site(farm: Farm, tmp_path: Path) -> None:
    target = tmp_path / "all.jsonl"
    for _ in range(2):
        farm.submit_job("echo a line")
        ended_well(farm.run_pilot(ON, "--realtime-logging-server", f"file;{target}", settings=PLAIN))
    assert [json.loads(line)["message"] for line in target.read_text().splitlines()] == ["a line", "a line"]


def test_fluentd_gets_messages_of_the_forward_protocol(farm: Farm) -> None:
    server = LineLog()
    job = farm.submit_job("echo hello fluentd")
    ended_well(farm.run_pilot(ON, "--realtime-logname", "panda", *to(server, "fluent"), settings=PLAIN))
    server.connections.wait(lambda items: 0 in items)
    # [tag, [[time, {...}]]]
    assert server.raw.startswith(b"\xdd\0\0\0\2\xdb\0\0\0\5panda\xdd")
    assert b"hello fluentd" in server.raw and str(job).encode() in server.raw
    server.close()


@pytest.mark.parametrize(("option", "words"), [
    ("nonsense;http://127.0.0.1:1", "unknown type of log server 'nonsense'"),
    ("logstash;gopher://127.0.0.1:1", "unknown protocol 'gopher'"),
])
def test_a_server_that_cannot_be_used_costs_nothing(farm: Farm, option: str, words: str) -> None:
    job = farm.submit_job("echo a line")
    pilot = ended_well(farm.run_pilot(ON, "--realtime-logging-server", option, settings=PLAIN))
    assert farm.final(job)["state"] == "finished"
    assert words in pilot.log


def test_a_library_that_is_missing_is_named(farm: Farm) -> None:
    blocked = farm.directory / "blocked"
    (blocked / "google" / "cloud" / "logging").mkdir(parents=True)
    (blocked / "google" / "__init__.py").write_text("raise ImportError('not here')")
    job = farm.submit_job("echo a line")
    pilot = ended_well(farm.run_pilot(
        ON, "--realtime-logging-server", "google-cloud-logging;http://127.0.0.1:1", settings=PLAIN,
        env={"PYTHONPATH": str(blocked)}))
    assert farm.final(job)["state"] == "finished"
    assert "pip install google-cloud-logging" in pilot.log


def test_a_dead_server_costs_lines_only(farm: Farm) -> None:
    job = farm.submit_job("seq 20000; echo done > out.dat", outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot(ON, "--realtime-logging-server", "logstash;http://127.0.0.1:9", settings=SHORT))
    assert farm.final(job)["state"] == "finished"
    assert "0 lines sent" in pilot.log and "lines dropped" in pilot.log


@pytest.mark.parametrize("kind", ["http", "tcp", "https"])
def test_a_server_that_hangs_delays_neither_payload_nor_pilot(farm: Farm, kind: str) -> None:
    server = LineLog(mute=True)
    job = farm.submit_job("head -c 30000000 /dev/zero | tr '\\0' 'x' | fold -w 1000; echo done > out.dat",
                          outputs=["out.dat"])
    pilot = ended_well(farm.run_pilot(ON, *to(server, protocol=kind), settings=SHORT, timeout=45))
    assert farm.final(job)["state"] == "finished"
    assert "dropped" in pilot.log
    server.close()


def test_a_busy_payload_loses_nothing_at_a_good_server(farm: Farm, server: HttpLog) -> None:
    gate = farm.gate("payload")
    farm.submit_job("seq 60000\n" + gate.shell())
    pilot = farm.start_pilot(ON, *to(server), settings=PLAIN)
    gate.reached()
    server.wait_message('"60000"')
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert server.messages() == [str(number) for number in range(1, 60001)]


def test_debug_mode_with_tail_streams_that_file(farm: Farm, server: HttpLog) -> None:
    farm.set_queue(catchall=f"logging=logstash;http://127.0.0.1:{server.port}")
    gate = farm.gate("payload")
    job = farm.submit_job("mkdir deep; echo looked for > deep/athena.log; echo not this\n" + gate.shell())
    pilot = farm.start_pilot(settings={**PLAIN, "pilot.heartbeat": 1, "pilot.debug_heartbeat": 1})
    gate.reached()
    assert server.inbox.all() == []
    farm.server.debug(job)
    farm.server.command(job, "tail athena.log")
    server.wait_message("looked for")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert "looked for" in server.messages()


def test_debug_mode_sends_nothing_twice(farm: Farm, server: HttpLog) -> None:
    gate = farm.gate("payload")
    job = farm.submit_job("echo once\n" + gate.shell() + "echo later")
    pilot = farm.start_pilot(ON, *to(server), settings={**PLAIN, "pilot.heartbeat": 1, "pilot.debug_heartbeat": 1})
    gate.reached()
    server.wait_message("once")
    farm.server.debug(job)
    pilot.wait_output("debug mode on")
    gate.open()
    pilot.wait()
    ended_well(pilot)
    assert server.messages() == ["once", "later"]


def test_an_experiment_names_its_server(farm: Farm, server: HttpLog) -> None:
    (farm.directory / "mine.py").write_text(
        "from pilot.user.sphenix import SphenixExperiment\nclass Mine(SphenixExperiment):\n    name = 'mine'\n"
        f"    realtime_server = 'logstash;http://127.0.0.1:{server.port}'\n")
    farm.submit_job("echo a line")
    # TLS is on by default: sPHENIX says that its server has none
    settings = {name: value for name, value in PLAIN.items() if name != "pilot.ssl_enable"}
    ended_well(farm.run_pilot(ON, "--pilot-user", "mine:Mine", settings=settings,
                              env={"PYTHONPATH": str(farm.directory)}))
    assert server.messages() == ["a line"]


def test_google_cloud_logging_through_its_library(farm: Farm) -> None:
    """The library is a stand-in here: what it is asked for, and that its faults cost lines only."""
    package = farm.directory / "library" / "google" / "cloud"
    package.mkdir(parents=True)
    sink = farm.directory / "google.jsonl"
    (package / "logging.py").write_text(f"""
import json
class Batch:
    def __init__(self, name): self.name, self.entries = name, []
    def log_struct(self, fields): self.entries.append(fields)
    def commit(self, timeout=None):
        with open({str(sink)!r}, "a") as stream:
            stream.writelines(json.dumps([self.name, entry]) + "\\n" for entry in self.entries)
class Logger:
    def __init__(self, name): self.name = name
    def batch(self): return Batch(self.name)
class Client:
    def logger(self, name): return Logger(name)
""")
    job = farm.submit_job("echo to the cloud")
    ended_well(farm.run_pilot(
        ON, "--realtime-logging-server", "google-cloud-logging;http://127.0.0.1:1", "--realtime-logname", "mine",
        settings=PLAIN, env={"PYTHONPATH": str(farm.directory / "library")}))
    assert farm.final(job)["state"] == "finished"
    (entry,) = map(json.loads, sink.read_text().splitlines())
    assert entry[0] == "mine" and entry[1]["message"] == "to the cloud" and entry[1]["PandaJobID"] == str(job)
