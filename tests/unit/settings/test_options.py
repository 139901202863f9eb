"""The command line is protocol: names, defaults and meanings of spec cli-config section 2."""

from __future__ import annotations

import random
import string

import pytest

from pilot.options import Options, build_parser, parse_command_line

RUN = ["--pilot-user", "ATLAS", "-q", "SITE_UCORE"]

# option spellings, dest, default, argument ("" = flag), value after it
TABLE = [
    (("-a", "--workdir"), "workdir", "", "/scratch", "/scratch"),
    (("--cleanup",), "cleanup", True, "False", False),
    (("-i", "--versiontag"), "version_tag", "PR", "RC", "RC"),
    (("-j", "--joblabel"), "job_label", "ptest", "managed", "managed"),
    (("-z", "--noserverupdate"), "update_server", True, None, False),
    (("-d", "--debug"), "debug", False, None, True),
    (("--no-pilot-log",), "nopilotlog", False, None, True),
    (("--redirect-stdout",), "redirectstdout", "", "/dev/null", "/dev/null"),
    (("-v", "--getjobrequests"), "getjob_requests", 2, "150", 150),
    (("-x", "--getjobfailures"), "getjob_failures", 5, "50", 50),
    (("--country-group",), "country_group", "", "de", "de"),
    (("--working-group",), "working_group", "", "AP_Higgs", "AP_Higgs"),
    (("--allow-other-country",), "allow_other_country", False, "yes", True),
    (("--allow-same-user",), "allow_same_user", True, "false", False),
    (("--job-type",), "jobtype", "", "unified", "unified"),
    (("-w", "--workflow"), "workflow", "generic", "generic_hpc", "generic_hpc"),
    (("-l", "--lifetime"), "lifetime", 324000, "3600", 3600),
    (("-L", "--leasetime"), "leasetime", 3600, "60", 60),
    (("-r", "--resource"), "resource", None, "OLD", "OLD"),
    (("-s", "--site"), "site", None, "OLD", "OLD"),
    (("--resource-type",), "resource_type", "", "MCORE_HIMEM", "MCORE_HIMEM"),
    (("-b", "--nocvmfs"), "cvmfs", True, None, False),
    (("--stageout-attempts",), "stageout_attempts", 1, "3", 3),
    (("--harvester-workdir",), "harvester_workdir", "", "/ap", "/ap"),
    (("--harvester-datadir",), "harvester_datadir", "", "/data", "/data"),
    (("--harvester-eventstatusdump",), "harvester_eventstatusdump", "", "f", "f"),
    (("--harvester-workerattributes",), "harvester_workerattributes", "", "f", "f"),
    (("--harvester-submit-mode",), "harvester_submitmode", "PULL", "PUSH", "PUSH"),
    (("--input-dir",), "input_dir", "", "/in", "/in"),
    (("--input-destination-dir",), "input_destination_dir", "", "/dest", "/dest"),
    (("--output-dir",), "output_dir", "", "/out", "/out"),
    (("--hpc-resource",), "hpc_resource", "", "titan", "titan"),
    (("--hpc-mode",), "hpc_mode", "manytoone", "jumbojobs", "jumbojobs"),
    (("--es-executor-type",), "executor_type", "generic", "fineGrainedProc", "fineGrainedProc"),
    (("--pod",), "pod", False, None, True),
    (("-t", "--noproxyverification"), "verify_proxy", True, None, False),
    (("-u", "--verifypayloadproxy"), "verify_payload_proxy", True, None, False),
    (("-y", "--notokenrenewal"), "token_renewal", True, None, False),
    (("--cacert",), "cacert", None, "/c.pem", "/c.pem"),
    (("--capath",), "capath", None, "/ca", "/ca"),
    (("--url",), "url", "", "https://panda.example.org", "https://panda.example.org"),
    (("-p", "--port"), "port", 25443, "443", 443),
    (("--queuedata-url",), "queuedata_url", "", "file:///q.json", "file:///q.json"),
    (("--storagedata-url",), "storagedata_url", "", "file:///s.json", "file:///s.json"),
    (("-k", "--noworkerpilotstatusupdate"), "workerpilotstatusupdate", True, None, False),
    (("--subscribe-to-msgsvc",), "subscribe_to_msgsvc", False, None, True),
    (("--use-https",), "use_https", True, "n", False),
    (("-g", "--baseurls"), "baseurls", "", "https://a,https://b", "https://a,https://b"),
    (("--use-realtime-logging",), "use_realtime_logging", False, None, True),
    (("--use-realtime-logging",), "use_realtime_logging", False, "True", True),
    (("--realtime-logging-server",), "realtime_logging_server", "", "logstash:h.org:8443", "logstash;http://h.org:8443"),
    (("--realtime-logname",), "realtime_logname", "", "Rubin", "Rubin"),
    (("--use-rucio-traces",), "use_rucio_traces", True, "0", False),
    (("--rucio-host",), "rucio_host", "", "https://rucio", "https://rucio"),
    (("--server-api",), "server_api", "", "legacy", "legacy"),
    (("--config",), "config", "", "site.yaml", "site.yaml"),
    (("--set",), "overrides", (), "pilot.heartbeat=60", ("pilot.heartbeat=60",)),
]
CASES = [(name, dest, default, argument, value) for names, dest, default, argument, value in TABLE for name in names]


def stop_text(capsys: pytest.CaptureFixture[str], argv: list[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_command_line(argv)
    assert stop.value.code == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err if code else captured.out


@pytest.mark.parametrize(("name", "dest", "default", "argument", "value"), CASES)
def test_option_has_its_default_and_takes_its_value(name, dest, default, argument, value):
    assert getattr(parse_command_line(RUN), dest) == default
    given = [name] if argument is None else [name, argument]
    assert getattr(parse_command_line([*given, *RUN]), dest) == value
    if argument is not None and name.startswith("--"):
        assert getattr(parse_command_line([f"{name}={argument}", *RUN]), dest) == value


def test_dataclass_defaults_are_the_parsers():
    assert parse_command_line(RUN) == Options(pilot_user="ATLAS", queue="SITE_UCORE")
    assert isinstance(parse_command_line([*RUN, "-p", "25080"]).port, int)


@pytest.mark.parametrize("argv", [
    "-q Q -i PR -j managed -w generic --pilot-user ATLAS --url https://pandaserver.cern.ch -d --harvester-submit-mode"
    " PULL --allow-same-user=False --job-type=unified --resource-type SCORE -p 25443",
    "-q Q -i PR -j managed --pilot-user=ATLAS -w generic -z -t --harvester-submit-mode PUSH -r R -s S",
    "-q Q -i PR -j managed -w generic --pilot-user ATLAS --allow-same-user=False --getjobrequests=150 -x 50"
    " --notokenrenewal --cleanup True --noworkerpilotstatusupdate --debug --noproxyverification",
    "-i PR -w generic --allow-same-user false --pilot-user rubin --es-executor-type fineGrainedProc --queue Q"
    " --noproxyverification --url U --noserverupdate --harvester-submit-mode PUSH --queuedata-url"
    " U/cache/schedconfig/x.all.json --storagedata-url FILE --use-realtime-logging --realtime-logname NAME",
])
def test_command_lines_of_real_sites_are_accepted(argv):
    assert parse_command_line(argv.split()).queue == "Q"


def test_queue_and_user_are_required_only_to_run_a_pilot(capsys):
    text = stop_text(capsys, ["-q", "Q"])
    assert "--pilot-user" in text and text.count("\n") == 1
    assert "-q" in stop_text(capsys, ["--pilot-user", "ATLAS"])
    assert "required" in stop_text(capsys, ["--pilot-user", "ATLAS", "-q", ""])
    for command in (["--version"], ["--check"], ["--status"], ["--recover", "/d"], ["--report"]):
        assert not parse_command_line(command).runs_a_pilot


def test_directory_of_a_command_defaults_to_the_current_one():
    assert parse_command_line(["--status"]).status == "."
    assert parse_command_line(["--recover", "/work"]).recover == "/work"
    assert parse_command_line(["--report"]).recover is None


@pytest.mark.parametrize(("word", "hint"), [
    ("--noserverupdat", "did you mean --noserverupdate?"),
    ("--resource_type=SCORE", "did you mean --resource-type?"),
    ("--country_group", "did you mean --country-group?"),
    ("--pilotversion", "option of the pilot wrapper"),
])
def test_unknown_option_ends_with_code_2_and_a_suggestion(capsys, word, hint):
    text = stop_text(capsys, [*RUN, word])
    assert word in text and hint in text and text.count("\n") == 1


def test_abbreviations_are_not_accepted(capsys):
    assert "--harvester-w" in stop_text(capsys, [*RUN, "--harvester-w", "/d"])
    assert "--clean" in stop_text(capsys, [*RUN, "--clean", "False"])


@pytest.mark.parametrize("argv", [
    ["-p", "x"], ["-p", "0"], ["-p", "70000"], ["-v", "-1"], ["-l", "1.5"], ["--cleanup", "maybe"], ["--cleanup"],
    ["--resource-type", "HUGE"], ["-w", "nonsense"], ["--server-api", "v2"], ["--realtime-logging-server", "x"],
    ["--pilot-user", "../../etc"], ["stray"],
])
def test_bad_value_is_one_line_and_code_2(capsys, argv):
    assert stop_text(capsys, [*RUN, *argv]).count("\n") == 1


def test_payload_stageout_is_refused_with_the_reason(capsys):
    assert "never existed" in stop_text(capsys, [*RUN, "-w", "payload_stageout"])


def test_garbage_never_raises_anything_but_systemexit(capsys):
    random.seed(20)
    words = [name for names, *_ in TABLE for name in names] + [
        "--", "-", "", "\udcff", "-q=", "%s", "%(x)s", "-9", "--=", "=", "-zdt",
        "-qX", "--set", "a=b=c", "\n", "--recover", "--help=1",
    ]
    for _ in range(1500):
        argv = [random.choice(words) if random.random() < 0.7 else
                "".join(random.choices(string.printable, k=random.randrange(6))) for _ in range(random.randrange(7))]
        try:
            assert isinstance(parse_command_line(argv, {}), Options)
        except SystemExit as stop:
            assert stop.code in (0, 2)
    capsys.readouterr()


def test_environment_replaces_options(capsys):
    options = parse_command_line([*RUN, "-l", "10"], {
        "PANDAPILOT_LIFETIME": "77", "PANDA_BASE_URLS": "https://b", "NO_CVMFS_OK": ""})
    assert (options.lifetime, options.baseurls, options.cvmfs) == (77, "https://b", False)
    assert parse_command_line([*RUN, "-g", "https://a"], {"PANDA_BASE_URLS": "https://b"}).baseurls == "https://a"
    assert parse_command_line([*RUN, "-l", "10"], {"PANDAPILOT_LIFETIME": "soon"}).lifetime == 10
    assert "PANDAPILOT_LIFETIME='soon'" in capsys.readouterr().err


def test_help_is_grouped_and_names_every_option(capsys):
    text = stop_text(capsys, ["--help"], code=0)
    titles = ["what to run", "asking for jobs", "PanDA server and credentials", "data:",
              "work directory, log and settings", "Harvester:", "other commands", "obsolete, accepted and ignored"]
    positions = [text.index(title) for title in titles]
    assert positions == sorted(positions)
    for action in build_parser()._actions:
        assert action.help, action.option_strings
        for name in action.option_strings:
            assert name in text
    assert max(map(len, text.splitlines())) <= 110
