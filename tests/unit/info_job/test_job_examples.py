"""The example jobs of the job definition document, and every recorded grant of a real server, become jobs."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from jobdef_examples import EXAMPLES, JOBS, as_form, example, recorded_grants

from pilot.info.encoding import decode_base64_parameters, decode_job_text
from pilot.info.job import Job
from pilot.info.jobparser import JobRefused, parse_job

GRANTS = recorded_grants()
NOT_COMPARED = {"errors", "timing", "cancel", "definition"}


def content(job: Job) -> dict:
    return {item.name: getattr(job, item.name) for item in fields(job) if item.name not in NOT_COMPARED}


def test_echo_job_has_only_a_log():
    job = parse_job(example("echo"))
    assert job.defects == []
    assert job.jobid == "7000000001"
    assert job.taskid == "41000001"
    assert job.jobsetid == "" and job.requestid == "" and job.nucleus == "" and job.swrelease == ""
    assert job.is_analysis
    assert job.jobparams == '--message "hello world" --sleep 2'
    assert job.indata == [] and job.outdata == []
    (log,) = job.logdata
    assert (log.lfn, log.filetype, log.scope) == ("echo.test.0001.job.log.tgz", "log", "test")
    assert log.guid == "0B6C1E0E-8D34-4C2D-9E0B-2C9A1F1B0001"
    assert log.dataset == "test:echo.test.log" and log.ddmendpoint == "TEST_SCRATCHDISK"
    assert not job.looping_check
    assert (job.corecount, job.maxwalltime, job.minramcount, job.maxdiskcount) == (1, 600, 1000, 100)


def test_production_job_keeps_its_command_line():
    raw = example("production")
    job = parse_job(raw)
    assert job.defects == []
    assert not job.is_analysis
    assert job.jobparams == raw["jobPars"]
    assert '--athenaopts "HITtoRDO:--nprocs=$ATHENA_CORE_NUMBER"' in job.jobparams
    assert [spec.accessmode for spec in job.indata] == ["copy", "copy"]
    assert [spec.filesize for spec in job.indata] == [1834719233, 1829551020]
    assert job.indata[1].checksum == {"adler32": "9b1c44e2"}
    assert job.indata[0].ddmendpoint == "EXAMPLE_DATADISK"
    assert [spec.lfn for spec in job.outdata] == ["AOD.41000002._000055.pool.root.1"]
    assert job.outdata[0].scope == job.logdata[0].scope == "mc23_13p6TeV"
    assert job.corecount == 8 and job.platform == "x86_64-centos7-gcc11-opt" and job.alrbuserplatform == ""


def test_analysis_job_reads_data_directly_but_copies_the_library():
    job = parse_job(example("analysis"))
    assert job.defects == []
    assert job.is_analysis and not job.is_build
    assert [spec.accessmode for spec in job.indata] == ["copy", "direct"]
    assert job.indata[0].storage_token == "local"
    assert (job.platform, job.alrbuserplatform) == ("x86_64-centos7-gcc11-opt", "centos7")
    assert job.overwrite_queuedata == {"direct_access_lan": True}
    assert "overwriteQueueData" not in job.jobparams
    assert [spec.may_be_missing for spec in job.outdata] == [False, True]
    assert job.allownooutput == {"user.jdoe.41000003._000007.hist.root"}
    assert job.altstageout is True
    assert job.attemptnr == 2


def test_a_name_in_allow_no_output_is_compared_as_a_whole():
    raw = example("analysis", allowNoOutput="user.jdoe.41000003._000007.out.root.more", dispatchDBlockTokenForOut="")
    assert not any(spec.may_be_missing for spec in parse_job(raw).outdata)


def test_image_in_parameters_wins_over_container_name():
    job = parse_job(example("container"))
    assert job.imagename == "docker://atlas/analysisbase:24.2.30"
    assert "containerImage" not in job.jobparams
    plain = parse_job(example("container", jobPars="x"))
    assert plain.imagename.startswith("/cvmfs/unpacked.cern.ch/")


def test_event_service_job_is_recognised():
    job = parse_job(example("eventservice"))
    assert job.defects == [] and job.is_eventservice and not job.is_eventservicemerge
    assert job.definition["prodDBlockTokenForOutput"] == "objectstore^EXAMPLE_OS,NULL"


@pytest.mark.parametrize("encode", [lambda raw: raw, lambda raw: decode_job_text(as_form(raw))[0]])
def test_multi_step_job_has_its_steps_in_both_encodings(encode):
    job = parse_job(encode(example("multistep")))
    assert job.defects == []
    assert job.preprocess["args"] == "--preprocess -p python%20prepare.py"
    assert job.postprocess["command"].endswith("runGen-00-00-02")
    assert job.containeroptions["containerExec"] == "echo start; /bin/sh __run_main_exec.sh"
    assert job.platform == ""


def test_merge_job_has_archives_as_inputs():
    job = parse_job(example("merge"))
    assert job.defects == []
    assert job.is_eventservicemerge
    assert [(spec.lfn, spec.is_tar) for spec in job.indata] == [
        ("a.1.7-8-9-1-2.zip", True),
        ("b.1.7-8-9-2-2.zip", True),
    ]
    assert job.indata[0].storage_token == "117/1000"
    assert job.writetofile == "inputFor_HITS.1.root:a.1.7-8-9-1-2,b.1.7-8-9-2-2"


def test_log_may_stand_anywhere_in_out_files():
    raw = example(
        "production",
        outFiles="a.root,the.log.tgz,b.root",
        logFile="the.log.tgz",
        realDatasets="da,dl,db",
        ddmEndPointOut="EA,EL,EB",
        scopeOut="sa,sb",
        scopeLog="sl",
        dispatchDBlockTokenForOut="",
    )
    job = parse_job(raw)
    assert job.defects == []
    assert [(f.lfn, f.scope, f.dataset, f.ddmendpoint) for f in job.outdata] == [
        ("a.root", "sa", "da", "EA"),
        ("b.root", "sb", "db", "EB"),
    ]
    assert [(f.lfn, f.scope, f.dataset) for f in job.logdata] == [("the.log.tgz", "sl", "dl")]


def test_job_without_log_uses_scopes_as_they_are():
    job = parse_job(
        example(
            "production",
            outFiles="a.root",
            logFile="",
            logGUID="",
            scopeLog="",
            scopeOut="sa",
            realDatasets="d",
            ddmEndPointOut="E",
            dispatchDBlockTokenForOut="",
        )
    )
    assert job.defects == [] and job.logdata == [] and job.outdata[0].scope == "sa"


def test_job_without_any_output_is_fine():
    job = parse_job(example("echo", outFiles="", logFile="", logGUID="", realDatasets="", ddmEndPointOut=""))
    assert job.defects == [] and job.outdata == [] and job.logdata == []


def test_null_for_every_file_field_means_no_files():
    lists = [name for name in example("echo") if name[0].islower() and name.endswith(("Files", "In", "Out", "Dblock"))]
    lists += ["GUID", "fsize", "checksum", "logFile", "logGUID", "scopeLog", "ddmEndPointIn"]
    job = parse_job(example("echo", **dict.fromkeys(lists, "NULL"), realDatasets="NULL"))
    assert job.defects == [] and (job.indata, job.outdata, job.logdata) == ([], [], [])


def test_repeated_and_undefined_inputs_are_skipped_without_moving_the_others():
    raw = example(
        "production",
        inFiles="a,NULL,a,b",
        GUID="G1,G2,G3,G4",
        fsize="1,2,3,4",
        checksum="ad:00000001,NULL,NULL,md5:" + "a" * 32,
        scopeIn="s1,s2,s3",
        realDatasetsIn="",
        ddmEndPointIn="",
        prodDBlockToken="",
    )
    job = parse_job(raw)
    assert job.defects == []
    assert [(f.lfn, f.guid, f.filesize, f.scope) for f in job.indata] == [("a", "G1", 1, "s1"), ("b", "G4", 4, "")]
    assert [f.checksum for f in job.indata] == [{"adler32": "00000001"}, {"md5": "a" * 32}]


def test_google_storage_input_keeps_its_url():
    job = parse_job(example("production", inFiles="gs://bucket/some/path/x.root,b"))
    assert (job.indata[0].lfn, job.indata[0].surl) == ("x.root", "gs://bucket/some/path/x.root")


def test_library_output_gets_a_guid_when_the_job_is_parsed():
    job = parse_job(example("production", outFiles="user.x.lib.tgz,log.41000002._000055.job.log.tgz.1"))
    assert len(job.outdata[0].guid) == 36 and job.outdata[0].guid == job.outdata[0].guid.upper()
    assert job.is_build


def test_regular_expression_output_is_kept_as_a_pattern():
    name = r"regex|user\.jdoe\.41\..*\.root(_\d+)?"
    job = parse_job(example("production", outFiles=f"{name},log.41000002._000055.job.log.tgz.1"))
    assert job.defects == []
    assert (job.outdata[0].lfn, job.outdata[0].pattern) == (name, name[len("regex|") :])


def test_environment_replaces_core_count_and_log_name():
    job = parse_job(example("production"), environ={"ATHENA_PROC_NUMBER": "4", "PILOT_LOGFILE": "other.log.tgz"})
    assert job.corecount == 4
    assert [spec.lfn for spec in job.logdata] == ["other.log.tgz"]
    assert job.logdata[0].ddmendpoint == "EXAMPLE_DATADISK"
    assert [spec.lfn for spec in job.outdata] == ["AOD.41000002._000055.pool.root.1"]
    assert job.defects == []


def test_core_count_of_the_environment_must_be_a_number():
    assert parse_job(example("production"), environ={"ATHENA_PROC_NUMBER": "many"}).corecount == 8
    assert parse_job(example("production"), environ={"ATHENA_PROC_NUMBER": "0"}).corecount == 8


@pytest.mark.parametrize(
    ("value", "cores"),
    [("NULL", 1), ("null", 1), (None, 1), ("", 1), (0, 1), ("0", 1), ("x", 1), ("8", 8), (8, 8), (..., 1)],
)
def test_core_count_follows_the_golden_values(value, cores):
    job = parse_job(example("production", coreCount=value))
    assert job.corecount == cores and job.defects == []


@pytest.mark.parametrize(
    ("value", "on"), [(False, False), ("False", False), ("True", True), ("NULL", True), (..., True)]
)
def test_looping_check_follows_the_golden_values(value, on):
    assert parse_job(example("production", loopingCheck=value)).looping_check is on


@pytest.mark.parametrize(
    ("value", "expected"), [("on", True), ("off", False), ("force", True), ("x", None), (..., None)]
)
def test_alternative_stage_out_follows_the_golden_values(value, expected):
    job = parse_job(example("production", altStageOut=value))
    assert job.altstageout is expected and job.defects == []


@pytest.mark.parametrize(
    ("parameters", "modes"),
    [
        ("-p x", ["copy", "direct"]),
        ("-p x --accessmode=direct", ["direct", "direct"]),
        ("-p x --accessmode=copy --accessmode=direct", ["copy", "copy"]),
        ("-p x --useLocalIO", ["copy", "copy"]),
    ],
)
def test_access_mode_follows_the_job_parameters(parameters, modes):
    assert [spec.accessmode for spec in parse_job(example("analysis", jobPars=parameters)).indata] == modes


@pytest.mark.parametrize("undefined", ["NULL", "null", "None", "", None, ...])
def test_every_spelling_of_undefined_is_the_same(undefined):
    names = (
        "transferType",
        "nucleus",
        "swRelease",
        "homepackage",
        "cmtConfig",
        "jobsetID",
        "reqID",
        "maxWalltime",
        "container_name",
        "containerOptions",
        "secrets",
        "writeToFile",
        "debug",
        "altStageOut",
    )
    job = parse_job(example("production", **dict.fromkeys(names, undefined)))
    reference = parse_job(example("production", **dict.fromkeys(names, ...)))
    assert content(job) == content(reference)
    assert job.defects == [] and not set(names) & set(job.definition)


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_encodings_give_the_same_job(name):
    raw = example(name)
    (decoded,) = decode_job_text(as_form(raw))
    assert all(isinstance(value, str) for value in decoded.values())
    assert content(parse_job(decoded)) == content(parse_job(raw))


def test_files_of_the_examples_decode_to_the_same_job():
    expected = content(parse_job(example("echo")))
    for name in ("echo.json", "echo_form.txt", "echo_harvester.json"):
        (raw,) = decode_job_text((JOBS / name).read_bytes())
        assert content(parse_job(raw)) == expected, name


@pytest.mark.parametrize(("name", "body"), GRANTS, ids=[name for name, _ in GRANTS])
def test_recorded_grant_becomes_a_job_without_defects(name, body):
    raws = decode_job_text(body)
    assert len(raws) == (2 if "bulk" in name else 1)
    for raw in raws:
        job = parse_job(raw)
        assert job.defects == []
        assert job.jobid.startswith("7000000")
        assert len(job.logdata) == 1 and job.logdata[0].guid == raw["logGUID"]
        assert len(job.indata) == len(str(raw["inFiles"]).split(",")) * bool(raw["inFiles"])


def test_there_are_recorded_grants_of_all_dialects():
    assert {name.split("/")[0] for name, _ in GRANTS} == {"legacy", "v1", "reference-pilot"}
    assert len(GRANTS) > 25


@pytest.mark.parametrize(("name", "body"), GRANTS, ids=[name for name, _ in GRANTS])
def test_recorded_grant_gives_the_same_job_in_the_other_encoding(name, body):
    for raw in decode_job_text(body):
        text = json.dumps(raw) if "=" in body[:20] else as_form(raw)
        (other,) = decode_job_text(text)
        assert content(parse_job(other)) == content(parse_job(raw))


def test_recorded_secrets_stay_json_text_and_out_of_the_definition():
    body = dict(GRANTS)["v1/109-acquire_jobs-secrets"]
    job = parse_job(decode_job_text(body)[0])
    assert json.loads(job.secrets) == {"MY_SECRET": "swordfish"}
    assert "swordfish" not in repr(job) and "swordfish" not in repr(job.definition)


def test_recorded_debug_job_is_in_debug_mode_without_looping_check():
    job = parse_job(decode_job_text(dict(GRANTS)["legacy/017-getJob-debug-noloop"])[0])
    assert job.debug and not job.looping_check and job.pilotsecrets == ""


def test_recorded_encoded_parameters_are_only_decoded_on_request():
    job = parse_job(decode_job_text(dict(GRANTS)["v1/018-acquire_jobs-special-handling-encoded-writetofile"])[0])
    assert job.jobparams.startswith("LS1pbnB1dEVW")
    plain = decode_base64_parameters(job.jobparams)
    assert plain is not None and plain.startswith("--inputEVNTFile=EVNT.30000001")
    for text in ("", "hello", "a b c d ", "AAAA", "//79", "aGFsbG8"):
        assert decode_base64_parameters(text) is None


def test_recorded_refusals_hold_no_job():
    with pytest.raises(JobRefused, match="StatusCode"):
        decode_job_text("StatusCode=20")
    with pytest.raises(JobRefused):
        decode_job_text('{"success": false, "message": "No jobs in PanDA", "data": null}')


def test_pandaid_as_text_is_the_same_job():
    assert parse_job(example("echo", PandaID="7000000001")).jobid == "7000000001"


def test_only_known_fields_reach_the_job():
    job = parse_job(example("echo", workdir="/etc", pid=1, infilesguids="x", jobid=...))
    assert job.workdir == Path()
    assert not {"workdir", "pid", "infilesguids"} & set(job.definition)
