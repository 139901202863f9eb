"""Layers, conversion, validation and origin of the settings."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml

import pilot.settings
from pilot.options import Options
from pilot.settings import DEFAULT_FILE, SettingsError, all_keys, default_settings, load_settings, parse_size
from pilot.settings_sections import WITHOUT_EFFECT

GB = 1024**3


def site_ini(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "site.cfg"
    path.write_text(text)
    return {"HARVESTER_PILOT_CONFIG": str(path)}


def problems_of(*args, **kwargs) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(*args, **kwargs)
    assert caught.value.code == 1008
    return caught.value.problems


def test_default_file_and_sections_have_the_same_keys():
    document = yaml.safe_load(DEFAULT_FILE.read_text())
    in_file = [f"{section}.{key}" for section, content in document.items() for key in content]
    assert in_file == [key for key, _ in all_keys()]


def test_every_key_is_described():
    for key, item in all_keys():
        assert item.metadata["doc"], key


# The values that sites rely on, spec cli-config 3.2.
@pytest.mark.parametrize(("key", "value"), [
    ("pilot.pilotlog", "pilotlog.txt"), ("pilot.pandajobdata", "pandaJobData.out"), ("pilot.pandajob", "real"),
    ("pilot.testtransfertype", "NULL"), ("pilot.pandaserver", "https://pandaserver.cern.ch:25443"),
    ("pilot.rtlogging", "logstash;http://aipanda115.cern.ch:8443"), ("pilot.ssl_enable", True),
    ("pilot.ssl_verify", True), ("pilot.heartbeat", 1800), ("pilot.debug_heartbeat", 60),
    ("pilot.lost_heartbeat", 10800), ("pilot.pilot_heartbeat", 60), ("pilot.heartbeat_message", "heartbeat.json"),
    ("pilot.pilot_heartbeat_file", "pilot_heartbeat.json"), ("pilot.jobid_file", "pandaIDs.out"),
    ("pilot.free_space_limit", 2 * GB), ("pilot.free_space_limit_running", GB),
    ("pilot.maximum_output_file_size", 500 * GB), ("pilot.maximum_input_file_sizes", 14 * GB),
    ("pilot.local_size_limit_stdout", 2097152), ("pilot.looping_verification_time", 900),
    ("pilot.looping_limit_default", 7200), ("pilot.looping_limit_min_default", 7200),
    ("pilot.kill_instruction_time", 60), ("pilot.kill_instruction_filename", "pilot_kill_payload"),
    ("pilot.proxy_verification_time", 600), ("pilot.payload_proxy_from_server", True),
    ("pilot.disk_space_verification_time", 60), ("pilot.memory_usage_verification_time", 60),
    ("pilot.process_verification_time", 300), ("pilot.thread_check", 10), ("pilot.cpu_check", 20),
    ("pilot.utility_after_payload_started", "MemoryMonitor"), ("pilot.http_connect_timeout", 100),
    ("pilot.http_maxtime", 120), ("pilot.update_sleep", 120), ("pilot.enable_delay_to_get_job", False),
    ("pilot.load_factor", 1.2), ("pilot.checks", ("proxy", "space", "last_heartbeat", "pilot_heartbeat",
                                                  "machinefeatures", "jobfeatures", "cpu_usage", "threads")),
    ("information.cache_dir", ""),
    ("information.queues_url", "https://atlas-cric.cern.ch/cache/schedconfig/{pandaqueue}.json"),
    ("information.queuedata_url", "http://pandaserver.cern.ch:25085/cache/schedconfig/{pandaqueue}.all.json"),
    ("information.acopytools", {}), ("payload.jobreport", "jobReport.json"),
    ("payload.payloadstdout", "payload.stdout"),
    ("container.setup_type", "ALRB"), ("container.middleware_container", "el9"),
    ("harvester.job_request_file", "worker_requestjob.json"), ("harvester.kill_worker_file", "kill_worker"),
    ("harvester.pandajob_file", "HPCJobs.json"), ("harvester.workerattributes_file", "worker_attributes.json"),
    ("harvester.stageoutn_file", "event_status.dump.json"), ("hpc.scratch", "/tmp/scratch/"),
    ("file.checksum_type", "adler32"), ("rucio.host", ""),
    ("message_broker.receiver_port", 61013), ("token.download_check", 3600), ("workernode.map", "workernode_map.json"),
    ("server.api", "auto"), ("server.gzip", True), ("server.read_timeout", 120), ("server.final_patience", 7200),
    ("transfers.copy_chunk", 1024**2), ("shutdown.deadline", 100), ("limits.looping_production", 43200),
    ("limits.log_archive_max_file", 2 * GB), ("jobs.pipelining", False), ("monitor.cpu_interval", 60),
])
def test_default_value(key, value):
    settings = default_settings()
    assert settings.get(key) == value
    assert settings.origin(key) == "default"


def test_values_have_the_type_of_their_field():
    types = {"int": int, "float": float, "bool": bool, "str": str, "tuple[str, ...]": tuple, "Mapping[str, Any]": dict}
    for key, item in all_keys():
        assert type(default_settings().get(key)) is types[str(item.type)], key


def test_layers_override_in_order_and_origin_is_kept(tmp_path):
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text("pilot: {heartbeat: 1, debug_heartbeat: 1, cpu_check: 1, thread_check: 1, update_sleep: 1}\n")
    environ = site_ini(tmp_path, "[Pilot]\ndebug_heartbeat: 2\ncpu_check = 2\nthread_check: 2\nupdate_sleep: 2\n")
    site = tmp_path / "site.yaml"
    site.write_text("pilot:\n  cpu_check: 3\n  thread_check: 3\n  update_sleep: 3\n")
    environ.update({"PANDA_PILOT_PILOT__THREAD_CHECK": "4", "PANDA_PILOT_PILOT__UPDATE_SLEEP": "4"})
    options = Options(config=str(site), overrides=("pilot.update_sleep=5",))
    settings = load_settings(options, environ, experiment)
    keys = ("heartbeat", "debug_heartbeat", "cpu_check", "thread_check", "update_sleep", "kill_instruction_time")
    assert [settings.get(f"pilot.{key}") for key in keys] == [1, 2, 3, 4, 5, 60]
    assert [settings.origin(f"pilot.{key}") for key in keys] == [
        "experiment", f"site file {tmp_path}/site.cfg", f"site file {site}",
        "environment PANDA_PILOT_PILOT__THREAD_CHECK", "option --set", "default"]
    assert (
        "pilot.update_sleep = 5 (default 120, set by option --set); it has no effect in this version"
        in settings.describe_changes()
    )
    assert len(settings.describe_changes()) == 5


def test_value_set_to_its_default_is_no_change():
    settings = default_settings(**{"pilot.heartbeat": 1800})
    assert settings.describe_changes() == []
    assert settings.origin("pilot.heartbeat") == "argument"


def test_settings_are_frozen():
    settings = default_settings()
    with pytest.raises(FrozenInstanceError):
        settings.pilot.heartbeat = 1
    with pytest.raises(FrozenInstanceError):
        settings.pilot = None
    assert settings.pilot.heartbeat == 1800
    assert settings == default_settings() != default_settings(**{"pilot.heartbeat": 1})


def test_named_variables_and_options_set_their_keys():
    environ = {"PILOT_ENABLE_DELAY_TO_GET_JOB": "True", "PILOT_LOAD_FACTOR": "2.5"}
    options = Options(queuedata_url="file:///q.json", rucio_host="https://r", server_api="legacy")
    settings = load_settings(options, environ)
    assert settings.pilot.enable_delay_to_get_job is True
    assert settings.pilot.load_factor == 2.5
    assert settings.information.queuedata_url == "file:///q.json"
    assert settings.rucio.host == "https://r"
    assert (settings.server.api, settings.origin("server.api")) == ("legacy", "option --server-api")


def test_foreign_variables_of_the_same_prefix_are_left_alone():
    environ = {"PANDA_PILOT_SOURCE": "/x", "PANDA_PILOT_AWS_PROFILE": "p", "PANDA_PILOT_COPY_OUT_EXTEND": "1"}
    assert load_settings(None, environ) == default_settings()


def test_ini_of_a_site_follows_the_reference_rules(tmp_path):
    environ = site_ini(tmp_path, """
[Experiment]
name: ATLAS
[Pilot]
Heartbeat: 600
PandaServer = https://panda.example.org:25443/%(x)s
payload_proxy_from_server: false
free_space_limit: 5 GB
checks: proxy, space
error_log: piloterrorlog.txt
remotefileverification_log:
[Information]
cache_dir: $SITE_CACHE/queue
queues_url: ${SITE_URL}
acopytools: {'pr': ['rucio', 'xrdcp']}
[Harvester]
workerAttributesFile: attributes.json
StageOutnFile: dump.json
[Message_broker]
receiver_port: 61023
""")
    environ.update({"SITE_CACHE": "/cache", "SITE_URL": "https://u"})
    settings = load_settings(None, environ)
    assert settings.pilot.heartbeat == 600
    assert settings.pilot.pandaserver == "https://panda.example.org:25443/%(x)s"
    assert settings.pilot.payload_proxy_from_server is False
    assert settings.pilot.free_space_limit == 5 * GB
    assert settings.pilot.checks == ("proxy", "space")
    assert settings.pilot.remotefileverification_log == ""
    assert (settings.information.cache_dir, settings.information.queues_url) == ("/cache/queue", "https://u")
    assert settings.information.acopytools == {"pr": ["rucio", "xrdcp"]}
    assert settings.harvester.workerattributes_file == "attributes.json"
    assert settings.harvester.stageoutn_file == "dump.json"
    assert settings.message_broker.receiver_port == 61023
    assert settings.pilot.debug_heartbeat == 60, "what the INI leaves out keeps its default"
    assert settings.warnings == ()


def test_undefined_variable_is_named(tmp_path):
    [problem] = problems_of(None, site_ini(tmp_path, "[Information]\ncache_dir: $NOT_SET\n"))
    assert "NOT_SET" in problem and "cache_dir" in problem and "site.cfg" in problem


def test_unknown_ini_key_is_a_warning_with_a_suggestion(tmp_path):
    settings = load_settings(None, site_ini(tmp_path, "[Pilot]\nhartbeat: 5\n[Nonsense]\nx: 1\n"))
    assert settings.pilot.heartbeat == 1800
    assert len(settings.warnings) == 2
    assert "'pilot.hartbeat'" in settings.warnings[0] and "did you mean 'pilot.heartbeat'?" in settings.warnings[0]


@pytest.mark.parametrize(("key", "suggested"), [
    ("pilot.hartbeat", "pilot.heartbeat"), ("pilot.Heartbaet", "pilot.heartbeat"),
    ("server.heartbeat", "pilot.heartbeat"),
    ("transfer.parallel", "transfers.parallel"),
])
def test_unknown_key_of_yaml_set_or_environment_is_an_error(tmp_path, key, suggested):
    section, _, name = key.partition(".")
    path = tmp_path / "site.yaml"
    path.write_text(f"{section}:\n  {name}: 5\n")
    for options, environ in ((Options(config=str(path)), {}), (Options(overrides=(f"{key}=5",)), {}),
                             (Options(), {f"PANDA_PILOT_{section.upper()}__{name.upper()}": "5"})):
        [problem] = problems_of(options, environ)
        assert f"did you mean '{suggested}'?" in problem


@pytest.mark.parametrize("override", [
    "pilot.heartbeat=0", "pilot.heartbeat=-5", "pilot.heartbeat=1.5", "pilot.heartbeat=", "pilot.heartbeat=soon",
    "pilot.free_space_limit=much", "pilot.free_space_limit=-1", "pilot.ssl_enable=maybe", "pilot.load_factor=nan",
    "pilot.load_factor=inf", "server.api=v2", "file.checksum_type=sha1", "information.acopytools=[1]",
    "information.acopytools=__import__('os')", "information.acopytools={", "pilot.heartbeat",
])
def test_bad_value_is_refused_with_its_key_and_origin(override):
    [problem] = problems_of(Options(overrides=(override,)), {})
    assert override.partition("=")[0] in problem and "--set" in problem


def test_all_problems_are_told_at_once(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("pilot: {heartbeat: x, load_factor: true}\nserver: [1]\n")
    assert len(problems_of(Options(config=str(path), overrides=("a.b=c",)), {})) == 4


@pytest.mark.parametrize("content", [
    b"[1, 2]", b"pilot: {", b"pilot: !!python/object:os.system {}", b"\xff\xfe\x00", b"- a",
])
def test_broken_yaml_is_one_clear_problem(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    [problem] = problems_of(Options(config=str(path)), {})
    assert "broken.yaml" in problem and "\n" not in problem


def test_empty_yaml_changes_nothing(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\npilot:\n")
    assert load_settings(Options(config=str(path)), {}) == default_settings()


def test_missing_files(tmp_path):
    [problem] = problems_of(Options(config=str(tmp_path / "none.yaml")), {})
    assert "No such file" in problem
    settings = load_settings(None, {"HARVESTER_PILOT_CONFIG": "/no/such.cfg"})
    assert "/no/such.cfg" in settings.warnings[0]


@pytest.mark.parametrize("text", ["key: value\n", "[Pilot\nx: 1\n"])
def test_broken_ini_is_one_clear_problem(tmp_path, text):
    [problem] = problems_of(None, site_ini(tmp_path, text))
    assert "INI" in problem and "\n" not in problem


def test_harvester_file_may_be_yaml(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("pilot: {heartbeat: 7}\n")
    assert load_settings(None, {"HARVESTER_PILOT_CONFIG": str(path)}).pilot.heartbeat == 7


@pytest.mark.parametrize(("text", "size"), [
    ("2 GB", 2 * GB), ("2gb", 2 * GB), ("2GiB", 2 * GB), ("14336 MB", 14336 * 1024**2), ("1.5 kB", 1536), ("7", 7),
    (7, 7), ("3 B", 3), ("1 TB", 1024 * GB), (" 1 MB ", 1024**2),
])
def test_sizes_are_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1 GB", "1 XB", "1 GB extra", True, None, "1e3"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError):
        parse_size(text)


def test_unknown_key_of_a_question_is_an_error():
    with pytest.raises(KeyError):
        default_settings().origin("pilot.nonsense")
    with pytest.raises(KeyError):
        default_settings().get("nonsense")


def test_no_default_depends_on_the_environment():
    assert not re.search(r":\s*\$", DEFAULT_FILE.read_text())
    assert load_settings(None, {}) == load_settings(None, {k: v for k, v in os.environ.items() if "PILOT" not in k})


def test_every_setting_is_read_somewhere_or_said_to_have_no_effect() -> None:
    package = Path(pilot.settings.__file__).parent
    texts = [path.read_text() for path in package.rglob("*.py") if not path.name.startswith("settings")]
    read = {
        node.attr for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)
    }
    keys = {key for key, _ in all_keys()}
    assert keys >= WITHOUT_EFFECT
    assert {key for key in keys - WITHOUT_EFFECT if key.partition(".")[2] not in read} == set()
    assert {key for key in WITHOUT_EFFECT if any(f"settings.{key}" in text for text in texts)} == set()
