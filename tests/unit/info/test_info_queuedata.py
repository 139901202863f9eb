from __future__ import annotations

import logging

import pytest

from pilot.common.exception import PilotException
from pilot.info.catchall import CatchAll, split_words
from pilot.info.queuedata import MvSettings, QueueData, log_activities, output_activities, stagein_activities


def parse(**raw):
    return QueueData.from_raw({"nickname": "Q", **raw})


# --- the complete examples of the document ---------------------------------------------------------------------------
def test_grid_example(grid_queue):
    queue = QueueData.from_raw(grid_queue)
    assert (queue.name, queue.resource, queue.site) == ("EXAMPLE-T2_UCORE", "EXAMPLE-T2_UCORE", "EXAMPLE-T2")
    assert queue.timefloor == 7200
    assert queue.maxtime == 345600
    assert queue.pilot_maxwdir_grace == pytest.approx(1.2)
    assert queue.pilot_rss_grace == pytest.approx(2.0)
    assert queue.pilot_walltime_grace == pytest.approx(1.05)
    assert queue.workdir_limit(8) == 144000
    assert queue.workdir_limit(1) == 18000
    assert queue.altstageout is True
    assert queue.container_type == {"pilot": "apptainer", "wrapper": "docker"}
    assert queue.container_options == "-B /cvmfs,${workdir},/etc/grid-security --contain"
    assert queue.flags.nopenfiles == 2
    assert queue.flags.remoteio_test is True
    assert queue.es_stageout_gap == 7200
    assert queue.environment() == {"FRONTIER_LOG_LEVEL": "warning"}
    assert queue.refusal() is None


def test_grid_example_activities(grid_queue):
    queue = QueueData.from_raw(grid_queue)
    assert queue.copytools_for(stagein_activities(queue, True)) == ["rucio", "xrdcp"]
    assert queue.storages_for(output_activities(queue, True)) == ["EXAMPLE-T2_SCRATCHDISK"]
    assert queue.storages_for(output_activities(queue, False)) == ["EXAMPLE-T2_DATADISK", "EXAMPLE-T1_DATADISK"]
    assert queue.storages_for(log_activities(queue, True)) == ["EXAMPLE-T2_DATADISK"]
    assert queue.schemas_for("gfal", output_activities(queue, False)) == ["davs"]
    assert queue.schemas_for("xrdcp", ["read_lan"]) == ["root"]
    assert queue.schemas_for("xrdcp", ["write_lan"]) == []


def test_local_example(local_queue):
    queue = QueueData.from_raw(local_queue)
    assert queue.copytools_for(["pl"]) == ["mv"]
    assert queue.maxinputsize == -1
    assert queue.timefloor == 0
    assert queue.workdir_limit(1) == 24000
    assert queue.storages_for(["read_lan"]) == []
    assert queue.mv_settings() == MvSettings("symlink", "mv")
    assert queue.container_type == {}


def test_hpc_example(hpc_queue):
    queue = QueueData.from_raw(hpc_queue)
    assert queue.container_options == "-B /cvmfs,/scratch,${workdir} --contain"
    assert queue.es_stageout_gap == 600
    assert queue.is_hpc
    assert queue.flags.hpc
    assert queue.job_maxwalltime
    assert queue.pilot_walltime_grace == pytest.approx(1.02)
    assert queue.workdir_limit(1) == round(2000000 // 128 * 1.2)


# --- cleaning --------------------------------------------------------------------------------------------------------
def test_an_empty_description_gives_the_defaults():
    queue = parse()
    assert queue.resource == "Q"
    assert (queue.corecount, queue.maxwdir, queue.memkillgrace, queue.timefloor) == (1, 0, 100, 0)
    assert (queue.allow_lan, queue.allow_wan, queue.is_cvmfs, queue.use_pcache) == (True, False, True, False)
    assert queue.site is None
    assert queue.state is None
    assert queue.es_stageout_gap == 7200
    assert queue.copytools_for(["read_lan"]) == ["rucio"]
    assert queue.looping_limit == 0


@pytest.mark.parametrize(
    ("value", "expected"), [(7, 7), (" 7 ", 7), ("NULL", 0), ("null", 0), (None, 0), ("x", 0), ([], 0), (7.9, 7)]
)
def test_int(value, expected):
    assert parse(maxrss=value).maxrss == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (" TRUE", True), ("yes", True), (1, True), ("", False), ("None", False), ("no", False), (0, False),
     (None, False), ("perhaps", False)],
)  # fmt: skip
def test_bool(value, expected):
    assert parse(allow_wan=value).allow_wan is expected


def test_bool_that_says_nothing_keeps_the_default():
    assert parse(allow_lan="perhaps").allow_lan is True


@pytest.mark.parametrize("value", [{"mv": {"setup": ""}}, "{'mv': {'setup': ''}}", '{"mv": {"setup": ""}}'])
def test_dict_may_be_a_mapping_or_a_literal(value):
    assert parse(copytools=value).copytools == {"mv": {"setup": ""}}


def test_json_literal_with_true_is_read():
    assert parse(params='{"allow_altstageout": true}').altstageout is True


@pytest.mark.parametrize("value", ["", None, "NULL", "{'mv'", "[1]", 5, "import os"])
def test_dict_that_cannot_be_read_is_empty(value):
    assert parse(copytools=value).copytools == {}


def test_each_bad_field_costs_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        queue = parse(maxrss="much", pledgedcpu="x", allow_lan="eh", copytools="{", params={"pilot_rss_grace": "a lot"})
    assert queue.pilot_rss_grace == 2.0
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 5
    for name in ("maxrss", "pledgedcpu", "allow_lan", "copytools", "pilot_rss_grace"):
        assert sum(name in message for message in messages) == 1


def test_first_external_name_that_is_not_none_wins():
    assert parse(atlas_site=None, gstat="G").site == "G"
    assert parse(atlas_site="A", gstat="G").site == "A"


@pytest.mark.parametrize("value", [0, None, "0", -3])
def test_corecount_is_at_least_one(value):
    assert parse(corecount=value).corecount == 1


def test_container_type_ignores_items_without_exactly_one_colon():
    queue = parse(container_type="singularity:pilot;nonsense;a:b:c;container:middleware")
    assert queue.container_type == {"pilot": "singularity", "middleware": "container"}


@pytest.mark.parametrize(
    ("options", "catchall", "expected"),
    [
        ("None", "", ""),
        ("", "singularity_options='-B /a,/b' x", "-B /a,/b"),
        ("", 'apptainer_options="-B /a"', "-B /a"),
        ("", "apptainer_options='-B /a',singularity_options='-B /s'", "-B /s"),
        ("", "singularity_options=-B /a,/b", "-B /a,/b"),
        ("-B /x", "singularity_options='-B /a'", "-B /x"),
        ("-B /x --contain", "", "-B /x,${workdir} --contain"),
        ("-B /x,${workdir} --contain", "", "-B /x,${workdir} --contain"),
        ("-e --contain", "", "-e -B ${workdir} --contain"),
        ("--bind=/x --containall", "", "--bind=/x,${workdir} --containall"),
    ],
)
def test_container_options(options, catchall, expected):
    assert parse(container_options=options, catchall=catchall).container_options == expected


def test_stageout_gap_depends_on_pledge():
    assert parse(zip_time_gap=0, pledgedcpu=-1).es_stageout_gap == 600
    assert parse(zip_time_gap="NULL", pledgedcpu=5).es_stageout_gap == 7200
    assert parse(zip_time_gap=30, pledgedcpu=-1).es_stageout_gap == 30


@pytest.mark.parametrize(
    ("value", "expected"), [("False", False), ("true", True), (True, True), (0, False), (None, None), ("maybe", None)]
)
def test_altstageout_text_is_read_as_what_it_says(value, expected):
    assert parse(params={"allow_altstageout": value}).altstageout is expected


@pytest.mark.parametrize(("value", "factor"), [("5", 1.05), ("50%", 1.5), (None, 2.0), ("nan", 2.0), (-200, 2.0)])
def test_grace(value, factor):
    assert parse(params={"pilot_rss_grace": value}).pilot_rss_grace == pytest.approx(factor)


def test_use_job_maxwalltime_is_the_same_flag():
    assert parse(params={"use_job_maxwalltime": "yes"}).job_maxwalltime
    assert not parse(params={"job_maxwalltime": "False"}).job_maxwalltime


@pytest.mark.parametrize(("value", "version"), [("ipv4", "IPv4"), ("IPv6", "IPv6"), ("IPv5", "IPv6"), ("", "IPv6")])
def test_internet_protocol_version(value, version):
    assert parse(params={"internet_protocol_version": value}).internet_protocol_version == version


@pytest.mark.parametrize(("params", "catchall", "expected"), [
    ({}, "", None), ({}, "HPC_HPC, pipelining", True), ({}, "pipelining=yes", True), ({}, "pipelining=false", False),
    ({"pipelining": True}, "", True), ({"pipelining": "false"}, "pipelining", False), ({}, "nopipelining", None),
    ({"pipelining": "perhaps"}, "pipelining", True),
])
def test_a_queue_asks_for_pipelining_or_forbids_it_and_params_win(params, catchall, expected):
    assert parse(params=params, catchall=catchall).pipelining is expected


def test_looping_limit():
    assert parse(params={"looping_limit": "3600"}).looping_limit == 3600


def test_work_dir_without_limit():
    assert parse(maxwdir=0).workdir_limit(1) == 0


@pytest.mark.parametrize("text", ["None", "", None])
def test_environ_without_content(text):
    queue = parse(environ=text)
    assert queue.environ == ""
    assert queue.environment() == {}


def test_environ_pairs():
    assert parse(environ="A=1 export B='x y' nonsense C=a=b").environment() == {"A": "1", "B": "x y", "C": "a=b"}


def test_unbalanced_quote_in_environ_does_not_raise():
    assert parse(environ="A=it's B=2").environment() == {"A": "it's", "B": "2"}


def test_the_parsed_queue_shares_nothing_with_the_raw_data():
    raw = {"nickname": "Q", "params": {"a": {"b": 1}}}
    QueueData.from_raw(raw).params["a"]["b"] = 2
    assert raw["params"]["a"]["b"] == 1


# --- state -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "status", "code"),
    [("ACTIVE", "online", None), ("ACTIVE", "brokeroff", None), ("ACTIVE", "test", None), ("ACTIVE", "", None),
     ("DISABLED", "online", 1359), ("active", "online", 1359), (None, "online", 1359), ("ACTIVE", "offline", 1386),
     ("ACTIVE", "OFFLINE", 1386), ("DISABLED", "offline", 1359)],
)  # fmt: skip
def test_refusal(state, status, code):
    refusal = parse(state=state, status=status).refusal()
    assert (refusal and refusal[0]) == code
    if refusal:
        assert "queue Q" in refusal[1]


# --- activities ------------------------------------------------------------------------------------------------------
def test_activities_of_a_production_queue():
    queue = parse(type="production")
    assert stagein_activities(queue, True) == ["read_lan", "pr"]
    assert output_activities(queue, True) == ["write_lan", "pw", "w"]
    assert log_activities(queue, False) == ["pl", "write_lan", "pw", "w"]


def test_activities_of_analysis_on_a_unified_queue():
    queue = parse(type="unified")
    assert stagein_activities(queue, True)[0] == "read_lan_analysis"
    assert output_activities(queue, True)[0] == "write_lan_analysis"
    assert "write_lan_analysis" not in output_activities(queue, False)


def test_old_activity_names_are_found():
    queue = parse(acopytools={"pr": ["mv"], "pw": "xrdcp, mv"}, astorages={"pw": ["A"]})
    assert queue.copytools_for(stagein_activities(queue, False)) == ["mv"]
    assert queue.copytools_for(output_activities(queue, False)) == ["xrdcp", "mv"]
    assert queue.storages_for(log_activities(queue, False)) == ["A"]
    assert queue.copytools_for(["es_events"]) == ["rucio"]


def test_without_acopytools_the_names_of_copytools_are_used():
    assert parse(copytools={"mv": {}, "xrdcp": {}}).copytools_for(["read_lan"]) == ["mv", "xrdcp"]


def test_results_can_be_changed_without_changing_the_queue():
    queue = parse(acopytools={"pr": ["mv"]}, astorages={"pr": ["A"]})
    queue.copytools_for(["pr"]).append("x")
    queue.storages_for(["pr"]).append("x")
    assert queue.copytools_for(["pr"]) == ["mv"]
    assert queue.storages_for(["pr"]) == ["A"]


def test_schemas_for_an_activity_given_as_text():
    queue = parse(acopytools_schemas={"pr": ["root", "srm"], "pw": {"gfal": ["davs"]}, "default": ["https"]})
    assert queue.schemas_for("gfal", "pr") == ["root", "srm"]
    assert queue.schemas_for("gfal", "pw") == ["davs"]
    assert queue.schemas_for("xrdcp", "pw") == ["https"]


def test_mv_settings():
    assert parse(copytools={"mv": {"copy_in": "CP", "copy_out": "cp"}}).mv_settings() == MvSettings("cp", "cp")
    assert parse(copytools={"mv": None}).mv_settings() == MvSettings()


@pytest.mark.parametrize("settings", [{"copy_in": "hardlink"}, {"copy_out": "symlink"}])
def test_unknown_mv_setting_is_a_bad_queue_configuration(settings):
    with pytest.raises(PilotException, match="bad queue configuration - copytools.mv.copy_") as caught:
        parse(copytools={"mv": settings}).mv_settings()
    assert caught.value.code == 1341


# --- catchall --------------------------------------------------------------------------------------------------------
def test_words_are_split_outside_quotes_only():
    text = "HPC_HPC,apptainer_options='-B /cvmfs,/scratch --contain' a=\"x, y\",don't  b"
    assert split_words(text) == ["HPC_HPC", "apptainer_options=-B /cvmfs,/scratch --contain", "a=x, y", "don't", "b"]


def test_flags_match_exactly():
    flags = CatchAll("no_mv_final_destination, pilotXcacheX; allow_wan_for_library")
    assert not flags.mv_final_destination
    assert not flags.xcache
    assert not flags.allow_wan_for_lib


def test_flags_are_found_in_any_position():
    flags = CatchAll("mv_final_destination;HPC_HPC, pilotXcache\tallow_wan_for_lib no_token_renewal,curlgetjob=True")
    assert flags.mv_final_destination and flags.hpc and flags.xcache and flags.allow_wan_for_lib
    assert flags.no_token_renewal and flags.curl_getjob
    assert not CatchAll("pilotXcache=false").xcache


def test_pairs():
    text = "logging=logstash;http://host:8080,loggingfile=a.log NopenFiles=4 RemoteIO_test=False IMAGE_BASE=/i"
    flags = CatchAll(text)
    assert flags.realtime_logging == "logstash;http://host:8080"
    assert flags.realtime_logfile == "a.log"
    assert flags.nopenfiles == 4
    assert flags.remoteio_test is False
    assert flags.image_base == "/i"


@pytest.mark.parametrize("text", ["", "nopenfiles=many", "nopenfiles=0", "logging=nothing"])
def test_pairs_that_say_nothing(text):
    flags = CatchAll(text)
    assert flags.nopenfiles == 1
    assert flags.remoteio_test is True
    assert flags.realtime_logging == ""
