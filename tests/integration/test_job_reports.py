"""Job reports of whole jobs: what reaches the server, what is stored, and what fails."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from typing import Any, Dict, Iterator, Mapping, Optional
from xml.etree import ElementTree

import pytest
from harness import Farm, Pilot
from looks import archive, ended_well, report_of

G1, G2 = "6A1B2C3D-0000-4000-8000-000000000001", "6A1B2C3D-0000-4000-8000-000000000002"
PLUGIN = {"plugins.experiments": {"reporting": "reporting:Reporting"}}
XML = (f'<POOLFILECATALOG><File ID="{G1}"><logical><lfn name="a"/></logical>'
       '<metadata att_name="events" att_value="40"/></File></POOLFILECATALOG>')


def report(*files: Mapping[str, Any], **fields: Any) -> Dict[str, Any]:
    listed = {"output": [{"subFiles": list(files)}]}
    return {"exitCode": 0, "exitAcronym": "OK", "exitMsg": "OK", "files": listed, **fields}


def step(**details: Any) -> Dict[str, Any]:
    return {"name": "step", "logfileReport": {"details": details}}


def leave(farm: Farm, content: object, name: str = "jobReport.json") -> str:
    """A shell line that leaves a report behind."""
    path = farm.scripts.parent / f"left-{len(list(farm.scripts.parent.iterdir()))}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return f"cp {path} {name}\n"


def run(farm: Farm, *options: str, settings: Optional[Mapping[str, object]] = None, **how: Any) -> Pilot:
    return ended_well(farm.run_pilot(
        "--pilot-user", "reporting", *options, settings={**PLUGIN, **(settings or {})}, **how))


@pytest.fixture
def web(farm: Farm) -> Iterator[str]:
    """The scripts of the farm as a web server has them: a job whose transformation is a URL is an analysis job."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(farm.scripts)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def submit_analysis(farm: Farm, web: str, payload: str, **fields: Any) -> int:
    return farm.submit_job("true", transformation=f"{web}/{farm.script(payload).name}", **fields)


def test_a_production_job_reports_all_that_its_report_says(farm: Farm) -> None:
    content = report(
        {"name": "a", "file_guid": G1, "file_size": 2, "nentries": 30}, {"name": "b", "file_guid": "none of it"},
        executor=[step(WARNING=[{"message": f"{n}"} for n in range(60)])],
        resource={"executor": {"step": {"dbTime": 1.5, "dbData": 77, "resimevents": 3}},
                  "transform": {"processedEvents": 100}})
    job = farm.submit_job("echo > a; echo > b\n" + leave(farm, content), outputs=["a", "b"])
    run(farm)
    final = farm.final(job)
    assert final["state"] == "finished", final
    assert int(final["nEvents"]) == 100
    assert final["jobMetrics"].startswith("nEvents=100 nEventsW=0 dbTime=1.50 dbData=77 resimevents=3")
    files = report_of(final)
    assert files["a"]["guid"] == G1
    assert files["b"]["guid"] == files["b"]["guid"].upper() and len(files["b"]["guid"]) == 36
    sent = json.loads(final["metaData"])
    assert len(sent["executor"][0]["logfileReport"]["details"]["WARNING"]) == 25
    assert '": ' not in final["metaData"] and "worker_node" not in sent
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert json.loads(members["jobReport.json"]) == sent
    assert json.loads(members["jobReport.json.original"]) == content


@pytest.mark.parametrize(("content", "code"), [
    (report({"name": "a", "file_guid": G1, "nentries": 3}), 0), (report({"name": "b"}), 1165), (None, 1187),
])
def test_the_atlas_plug_in_itself(farm: Farm, content: Any, code: int) -> None:
    job = farm.submit_job("echo > a\n" + (leave(farm, content) if content else ""), outputs=["a"], swRelease="NULL",
                          homepackage="AtlasProduction")
    ended_well(farm.run_pilot("--pilot-user", "ATLAS"))
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == code, final["pilotErrorDiag"]
    if not code:
        assert report_of(final)["a"]["guid"] == G1 and "nEvents=3" in final["jobMetrics"]


@pytest.mark.parametrize(("files", "optional", "code", "stored"), [
    ([{"name": "a", "nentries": 3}, {"name": "b", "nentries": 4}], "", 0, ["a", "b"]),
    ([{"name": "a"}], "", 1165, []),
    ([{"name": "a"}], "b", 0, ["a"]),
    ([{"name": "a"}, {"name": "b", "nentries": None}], "b", 0, ["a"]),
    ([{"name": "a"}, {"name": "b", "nentries": 0}], "", 0, ["a", "b"]),
    ([{"name": "a"}, {"name": "b", "nentries": "UNDEFINED"}], "b", 0, ["a", "b"]),
    ([], "", 1165, []),
    ([], "a,b", 0, []),
])
def test_outputs_of_production(farm: Farm, files: Any, optional: str, code: int, stored: Any) -> None:
    job = farm.submit_job("echo > a; echo > b\n" + leave(farm, report(*files)), outputs=["a", "b"],
                          allowNoOutput=optional)
    run(farm)
    final = farm.final(job)
    assert int(final["pilotErrorCode"]) == code, final
    assert final["state"] == ("failed" if code else "finished")
    assert sorted(name for name in report_of(final) if name in "ab") == stored
    if code:
        assert "not in the job report" in final["pilotErrorDiag"]
    assert int(final.get("nEvents") or 0) == sum(item.get("nentries") or 0 for item in files
                                                 if item.get("nentries") != "UNDEFINED")


@pytest.mark.parametrize(("content", "optional", "made", "stored"), [
    (report({"name": "a"}), "", "ab", ["a", "b"]),
    (report(), "", "ab", ["a", "b"]),
    (report({"name": "a"}), "b", "ab", ["a"]),
    (None, "b", "a", ["a"]),
    ("{broken", "", "ab", ["a", "b"]),
])
def test_outputs_of_analysis(farm: Farm, web: str, content: Any, optional: str, made: str, stored: Any) -> None:
    payload = "".join(f"echo > {name}\n" for name in made) + (leave(farm, content) if content is not None else "")
    job = submit_analysis(farm, web, payload, outputs=["a", "b"], allowNoOutput=optional)
    run(farm, "-g", web)
    final = farm.final(job)
    assert final["state"] == "finished", final
    assert sorted(name for name in report_of(final) if name in "ab") == stored


def test_a_generic_job_does_not_depend_on_its_report(farm: Farm) -> None:
    content = report({"name": "b"}, exitCode=65, exitMsg="a word of its own")
    job = farm.submit_job("echo > a\n" + leave(farm, content), outputs=["a"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert (final["state"], json.loads(final["metaData"])) == ("finished", content)
    assert list(report_of(final))[0] == "a"


@pytest.mark.parametrize(("content", "shell", "codes", "words"), [
    (report(exitCode=65, exitAcronym="TRF_EXEC_FAIL", exitMsg="Non-zero return code from step"), "exit 0", {1220},
     "job report says 65: TRF_EXEC_FAIL: Non-zero return code"),
    (report(exitCode=65, exitMsg="step got a SIGSEGV signal"), "exit 65", {1328}, "in payload: step got a SIGSEGV"),
    (report(exitCode=65, exitMsg="x", executor=[step(ERROR=[{"message": "St9bad_alloc"}])]), "exit 65", {1223},
     "step: St9bad_alloc"),
    (report(exitCode=65, exitMsg="x", executor=[step(ERROR=[{
        "message": "y", "moreDetails": {"abnormalLines": ["INFO Cannot find a valid frontier connection (z)"]}}])]),
     "exit 65", {1369}, "valid frontier connection (z)"),
    (report(exeErrorCode=7, exeErrorDiag="seven dwarfs"), "exit 0", {1305}, "seven dwarfs"),
])
def test_a_report_against_its_payload(farm: Farm, content: Any, shell: str, codes: Any, words: str) -> None:
    job = farm.submit_job("echo > a\n" + leave(farm, content) + shell, outputs=["a"])
    run(farm)
    final = farm.final(job)
    assert final["state"] == "failed"
    assert int(final["pilotErrorCode"]) in codes, final["pilotErrorDiag"]
    assert words in final["pilotErrorDiag"]
    assert int(final["exeErrorCode"]) == content.get("exeErrorCode", 65)
    assert final["exeErrorDiag"] == content.get("exeErrorDiag", content["exitMsg"])
    assert not final.get("metaData")
    assert "a" not in report_of(final)


def test_the_numbers_of_user_scripts(farm: Farm, web: str) -> None:
    tarball = submit_analysis(farm, web, "echo 'see https://cache.example/sources.7.tgz'\n"
                              + leave(farm, report(exitCode=146, exitMsg="no tarball")) + "exit 146")
    nothing_left = submit_analysis(farm, web, leave(farm, report(exitCode=160, exitMsg="no more points")) + "exit 160")
    for _ in range(2):
        run(farm, "-g", web)
    final = farm.final(tarball)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1246)
    assert "User tarball https://cache.example/sources.7.tgz cannot be downloaded" in final["pilotErrorDiag"]
    final = farm.final(nothing_left)
    assert (final["state"], int(final["transExitCode"]), int(final["exeErrorCode"])) == ("finished", 0, 0)


@pytest.mark.parametrize(("payload", "code", "words"), [
    ("true", 1187, "there is no jobReport.json and no metadata.xml"),
    ("echo '{' > jobReport.json", 1187, "jobReport.json is not valid JSON"),
    ("mkfifo jobReport.json", 1187, "jobReport.json is not used"),
    ("ln -s /etc/passwd jobReport.json", 1187, "a link out of the work directory"),
    ("truncate -s 200M jobReport.json", 1187, "209715200 bytes"),
    ("echo '<File' > metadata.xml", 1247, "metadata.xml: "),
    ("echo '<!DOCTYPE a [<!ENTITY a \"a\">]><a/>' > metadata.xml", 1247, "entities are refused"),
])
def test_production_without_a_usable_report(farm: Farm, payload: str, code: int, words: str) -> None:
    job = farm.submit_job(f"echo > a\n{payload}", outputs=["a"])
    run(farm)
    final = farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    assert words in final["pilotErrorDiag"]


FORMS = {
    "NaN": '{"exitCode": NaN, "resource": {"transform": {"processedEvents": Infinity}}, "x": ['
           + "NaN, " * 10_000 + "1e999]}",
    "deep": '{"exitCode": 0, "x": ' + "[" * 50_000 + "]" * 50_000 + "}",
    "types": '{"exitCode": [], "executor": 7, "files": {"output": [[[{}]]]}, "resource": ["x"], "exitMsg": {}}',
    "cut": '{"exitCode": 0, "files": {"output": [{"subFiles": [{"name": "a", "file_gu',
    "list": "[1, 2]", "empty": "", "html": "<html>no</html>",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["generic", "analysis"])
def test_the_form_of_a_report_fails_no_job(farm: Farm, web: str, kind: str, form: str) -> None:
    payload = "echo > a\n" + leave(farm, FORMS[form])
    if kind == "generic":
        job = farm.submit_job(payload, outputs=["a"])
        ended_well(farm.run_pilot())
    else:
        job = submit_analysis(farm, web, payload, outputs=["a"])
        run(farm, "-g", web)
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert "a" in report_of(final)
    if kind == "analysis":  # what is sent is JSON that everybody reads
        json.loads(final["metaData"], parse_constant=lambda name: pytest.fail(name))


def test_what_old_releases_leave_stands_in(farm: Farm) -> None:
    by_xml = farm.submit_job("echo > a\n" + leave(farm, XML, "catalogue.xml"), outputs=["a"])
    by_summary = farm.submit_job(
        "echo > a\nprintf 'Events Read: 12\\nEvents Written: 11\\n' > AthSummary.txt\n"
        + leave(farm, XML.replace("40", "0"), "catalogue.xml"), outputs=["a"])
    for _ in range(2):
        run(farm, settings={"payload.metadata": "catalogue.xml"})
    final = farm.final(by_xml)
    assert (final["state"], int(final["nEvents"]), final["metaData"]) == ("finished", 40, XML)
    assert report_of(final)["a"]["guid"] == G1
    final = farm.final(by_summary)
    assert (final["state"], int(final["nEvents"])) == ("finished", 12)
    assert "nEventsW=11" in final["jobMetrics"]


def test_bad_xml_beside_a_good_report_costs_the_events_only(farm: Farm) -> None:
    job = farm.submit_job("echo > a; echo '<File' > metadata.xml\n" + leave(farm, report({"name": "a"})), outputs=["a"])
    run(farm)
    final = farm.final(job)
    assert (final["state"], final["nEvents"]) == ("finished", None)


def test_a_report_of_another_attempt_is_not_taken(farm: Farm) -> None:
    stale = json.dumps(report({"name": "a", "file_guid": G2}, exitCode=65, exitMsg="stale")).encode()
    job = farm.submit_job("echo > a", inputs={"jobReport.json": stale}, outputs=["a"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished" and not final.get("metaData")
    assert report_of(final)["a"]["guid"] != G2


def test_a_report_of_200_mb_costs_the_metadata_only(farm: Farm) -> None:
    job = farm.submit_job("echo > a; (printf '{\"exitCode\": 0, \"x\": \"'; head -c 209715200 /dev/zero | tr '\\0' x;"
                          " printf '\"}') > jobReport.json", outputs=["a"])
    ended_well(farm.run_pilot())
    final = farm.final(job)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    assert "longer than 8388608 bytes" in json.loads(final["metaData"])["pilotNote"]


def test_without_server_updates_the_node_and_output_files_are_told(farm: Farm) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    script = farm.script("echo > a\n" + leave(farm, report({"name": "a", "file_guid": G1})))
    (launch / "pandaJobData.out").write_text(json.dumps({
        "PandaID": 17, "transformation": str(script), "jobPars": "", "attemptNr": 1, "prodSourceLabel": "managed",
        "outFiles": "a,log.tgz", "logFile": "log.tgz", "scopeOut": "test", "scopeLog": "test",
        "realDatasets": "test.ds,test.ds", "ddmEndPointOut": "TEST_RSE,TEST_RSE"}))
    run(farm, "-z", directory=launch, settings={"jobs.output_files_xml": True})
    message = json.loads((launch / "heartbeat.json").read_text())
    assert message["state"] == "finished", message
    sent = json.loads(message["metaData"])
    assert sent["worker_node"]["host_name"] and sent["files"]["output"][0]["subFiles"][0]["name"] == "a"
    root = ElementTree.parse(launch / "OutputFiles.xml").getroot()
    assert root.tag == "outfiles"
    first = {child.tag: child.text for child in root[0]}
    assert (first["lfn"], first["guid"], first["size"], first["dataset"]) == ("a", G1, "1", "test.ds")
    assert first["ad32"] == "000b000b" and first["surl"]
    assert root[1].findtext("lfn") == "log.tgz"


def test_output_files_are_written_only_on_request(farm: Farm) -> None:
    launch = farm.directory / "launch"
    launch.mkdir()
    (launch / "pandaJobData.out").write_text(json.dumps({
        "PandaID": 17, "transformation": "true", "jobPars": "", "attemptNr": 1, "prodSourceLabel": "managed"}))
    ended_well(farm.run_pilot("-z", directory=launch))
    assert not list(launch.glob("**/OutputFiles.xml"))
    assert "metaData" not in json.loads((launch / "heartbeat.json").read_text())
