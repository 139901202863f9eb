"""Transfer scripts, the files beside them, and what becomes of their results; the scripts really run."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any, Callable

import pytest

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.info.middleware import MiddlewareCommand, MiddlewareTask
from pilot.info.storage import StorageData
from pilot.settings import Settings, SettingsError, default_settings, restored_settings
from pilot.staging import handover
from pilot.staging.context import StagingContext
from pilot.staging.handover import Places
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.user.base import Experiment
from pilot.util.cancel import CancelledError, CancelToken
from tests.unit.staging.conftest import Site, adler32

BASH = {"container_type": "bash:middleware", "copytools": {"mv": {"copy_in": "cp", "copy_out": "cp"}}}
Middleware = Callable[[MiddlewareTask], MiddlewareCommand]


def context(site: Site, queue: dict[str, Any] | None = None, middleware: Middleware | None = None,
            **how: Any) -> StagingContext:
    ctx = site.context({**BASH, **(queue or {})}, **how)
    ctx.middleware = middleware or Experiment().middleware_command
    ctx.workdir = site.workdir
    return ctx


def shell(line: str) -> Middleware:
    """Instead of the script."""
    return lambda _task: MiddlewareCommand(["/bin/bash", "-c", line])


# --- what travels -----------------------------------------------------------------------------------------------------


def test_every_field_of_the_context_travels_or_is_made_over_there_or_is_known_to_stay() -> None:
    lists = [*handover.CONTEXT_FACTS, *handover.CONTEXT_MADE, *handover.CONTEXT_STAYS]
    assert sorted(lists) == sorted(item.name for item in fields(StagingContext))


def test_every_field_of_a_file_comes_back_or_cannot_change_over_there() -> None:
    fixed = {"lfn", "filetype", "guid", "scope", "dataset", "storage_token", "accessmode", "allow_lan", "allow_wan",
             "direct_access_lan", "direct_access_wan", "workdir", "is_tar", "may_be_missing", "pattern"}
    assert {item.name for item in fields(FileSpec)} - fixed == set(handover._RESULT_FIELDS)


def test_settings_travel_as_values_without_any_file() -> None:
    settings = default_settings(**{"transfers.parallel": 7, "plugins.copytools": {"x": "y:Z"}, "pilot.checks": "a,b"})
    restored = restored_settings(json.loads(json.dumps(settings.values())))
    assert restored == Settings(**{item.name: getattr(settings, item.name) for item in fields(Settings)})
    assert restored.transfers.parallel == 7 and restored.pilot.checks == ("a", "b")


def test_settings_that_lack_a_key_are_refused() -> None:
    values = default_settings().values()
    del values["transfers.parallel"]
    with pytest.raises(SettingsError, match=r"no transfers\.parallel"):
        restored_settings(values)


@pytest.mark.parametrize(("inside", "outside"), [
    ("file://localhost/srv/a.root", "file://localhost/job/a.root"), ("/srv/x: No space", "/job/x: No space"),
    ("cannot write /srv", "cannot write /job"), ("root://host//srv/a", "root://host//srv/a"),
    ("https://h/srv/a", "https://h/srv/a"), ("/srvx/a", "/srvx/a"), ("file:///srv/a b", "file:///job/a b")])
def test_paths_of_the_container_become_those_of_the_node(inside: str, outside: str) -> None:
    assert Places(Path("/job"), Path("/srv")).leave(inside) == outside


# --- files beside the script ------------------------------------------------------------------------------------------


def test_the_files_that_other_tools_know_are_there_with_their_content(site: Site) -> None:
    site.input("a.root", b"abc", scope="user.x", dataset="ds", ddmendpoint="RSE", allow_wan=True, storage_token="T")
    site.input("b.root", b"def", checksum={"md5": "4ed9407630eb1000c0f6b63842defa7d"})
    site.input("c.root", b"ghi", checksum={})
    stage_in(site.job, context(site), CancelToken())
    replicas = json.loads((site.workdir / "stagein_replicas.json").read_text())
    assert replicas["a.root"] == {
        "guid": "GUID-a.root", "scope": "user.x", "dataset": "ds", "ddmendpoint": "RSE", "filesize": 3,
        "checksum": "024d0127", "allowlan": True, "allowwan": True, "directaccesslan": False, "directaccesswan": False,
        "istar": False, "accessmode": "", "storagetoken": "T"}
    assert [replicas[name]["checksum"] for name in ("b.root", "c.root")] == ["4ed9407630eb1000c0f6b63842defa7d", "None"]
    assert json.loads((site.workdir / "stagein_status.json").read_text())["error"] == ["", 0, None, None]
    assert (site.workdir / "stagein.py").stat().st_mode & 0o111 == 0o111
    assert stat.S_IMODE((site.workdir / "stagein_request.json").stat().st_mode) == 0o600
    assert not (site.workdir / "pilot-source.zip").exists()


def test_the_status_of_the_log_does_not_replace_that_of_the_outputs(site: Site) -> None:
    out = site.output("out.root")
    stage_out(site.job, [out], context(site, options={"output_dir": str(site.launch)}), CancelToken(), log=False)
    (site.home / "job.log.tgz").write_bytes(b"log")
    log = FileSpec(lfn="job.log.tgz", filetype="log")
    stage_out(site.job, [log], context(site, options={"output_dir": str(site.launch)}), CancelToken(), log=True)
    outputs = json.loads((site.workdir / "stageout_status.json").read_text())
    logs = json.loads((site.workdir / "stageout_status.json.log").read_text())
    place = f"file://localhost{site.launch}"
    assert outputs["out.root"] == ["transferred", 0, f"{place}/out.root", f"{place}/out.root", adler32(b"output"), 6]
    assert list(logs) == ["job.log.tgz", "error"]
    assert log.status == "transferred" and log.checksum and log.filesize == 3


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "words"), [
    ("echo oh dear >&2; exit 3", ["exit code 3", "oh dear", "stagein_result.json"]),
    ("kill -9 $$", ["signal 9", "it said nothing on stderr"]),
    ("echo '{\"version\": 1' > stagein_result.json", ["is no JSON"]),
    ("echo '{\"version\": 99}' > stagein_result.json", ["not the result of this transfer"]),
    ("ln -s /etc/passwd stagein_result.json", ["left no result"]),
    ("mkfifo stagein_result.json", ["left no result"])])
def test_no_usable_result_is_a_failed_stage_in_that_says_why(site: Site, line: str, words: list[str]) -> None:
    spec = site.input("a.root")
    with pytest.raises(PilotException) as caught:
        stage_in(site.job, context(site, middleware=shell(line)), CancelToken())
    assert caught.value.code == 1099
    for word in words:
        assert word in caught.value.detail
    assert (spec.status, spec.status_code) == ("failed", 1099)
    error = json.loads((site.workdir / "stagein_status.json").read_text())["error"]
    assert error[:2] == [caught.value.detail, 1099]


def test_the_result_of_an_earlier_transfer_counts_for_nothing(site: Site) -> None:
    site.input("a.root")
    stage_in(site.job, context(site), CancelToken())
    site.job.indata[0].status = None
    kept = (site.workdir / "stagein_result.json").read_text()
    (site.home / "old.json").write_text(kept)
    with pytest.raises(PilotException, match="not the result of this transfer"):
        stage_in(site.job, context(site, middleware=shell(f"cp {site.home}/old.json stagein_result.json")),
                 CancelToken())


def test_a_result_that_forgets_a_file_is_a_failure(site: Site) -> None:
    spec = site.input("a.root")
    line = """python3 -c 'import json; r = json.load(open("stagein_request.json"));
json.dump({"version": 1, "name": r["name"], "error": None, "files": {}, "records": [], "tries": []},
          open("stagein_result.json", "w"))'"""
    with pytest.raises(PilotException, match=r"says nothing of a\.root") as caught:
        stage_in(site.job, context(site, middleware=shell(line)), CancelToken())
    assert caught.value.code == 1099 and spec.status == "failed"


def test_a_program_that_cannot_be_started_is_a_failed_stage_out(site: Site) -> None:
    out = site.output("out.root")
    broken: Middleware = lambda _task: MiddlewareCommand(["/no/such/program"])  # noqa: E731
    with pytest.raises(PilotException, match="/no/such/program") as caught:
        stage_out(site.job, [out], context(site, middleware=broken), CancelToken(), log=False)
    assert caught.value.code == 1137


def test_a_script_that_takes_too_long_is_ended_with_1151(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = site.input("a.root")
    monkeypatch.setattr("pilot.staging.middleware.START_ALLOWANCE", -1.0)
    ctx = context(site, middleware=shell("echo slow >&2; sleep 3600"), transfers__stagein_timeout_base=1)
    with pytest.raises(PilotException, match="the script was not done within .*; its last words: slow") as caught:
        stage_in(site.job, ctx, CancelToken())
    assert caught.value.code == 1151 and (spec.status, spec.status_code) == ("failed", 1151)


@pytest.mark.parametrize("trap", ["mkdir {}", "mkfifo {}", "ln -s /etc/passwd {}", "mkdir {}.part"])
def test_what_a_payload_leaves_under_our_names_is_not_in_the_way(site: Site, trap: str) -> None:
    for name in ("stageout.py", "stageout_request.json", "stageout_result.json", "stageout_stdout.txt",
                 "stageout_stderr.txt", "stageoutlog.txt", "pilot-source.zip"):
        assert os.system(f"cd {site.workdir} && {trap.format(name)}") == 0
    before = Path("/etc/passwd").read_bytes()
    out = site.output("out.root")
    stage_out(site.job, [out], context(site, options={"output_dir": str(site.launch)}), CancelToken(), log=False)
    assert out.status == "transferred" and (site.launch / "out.root").exists()
    assert Path("/etc/passwd").read_bytes() == before


DRILL = {"copytools": {"debug": {}}, "acopytools": {"default": ["debug"]}}


def test_the_script_has_helper_processes_of_its_own(site: Site) -> None:
    """Only the helper of the drill can die like this, and it comes out of the archive with the pilot's source."""
    spec = FileSpec(lfn="debug.crash.x.root", filesize=10)
    site.job.indata = [spec]
    with pytest.raises(PilotException, match="helper process for crash ended with signal 11"):
        stage_in(site.job, context(site, DRILL), CancelToken())
    assert spec.status == "failed"


@pytest.mark.parametrize(("name", "code"), [
    ("debug.half.root", 1099), ("debug.fail-1361.root", 1361), ("debug.bug.root", 1099), ("debug.good.root", 0)])
def test_each_drilled_outcome_comes_back_as_it_is(site: Site, name: str, code: int) -> None:
    spec = FileSpec(lfn=name, filesize=10)
    site.job.indata = [spec]
    try:
        stage_in(site.job, context(site, DRILL), CancelToken())
    except PilotException as exc:
        assert exc.code == code
    assert spec.status_code == code
    assert sorted(path.name for path in site.workdir.glob("debug*")) == ([] if code else [name])


def test_records_and_numbers_of_attempts_come_back(site: Site) -> None:
    site.input("a.root")
    ctx = context(site)
    ctx.job_id = "42"
    stage_in(site.job, ctx, CancelToken())
    assert [(item.lfn, item.tool, item.code, item.transfer_id) for item in site.records] == [
        ("a.root", "mv", 0, "42.0.in.a.root.1")]
    assert ctx.tries == {("in", "a.root"): 1}


def test_a_wrong_checksum_has_the_code_and_the_text_of_the_planner(site: Site) -> None:
    spec = site.input("a.root", checksum={"adler32": "00000001"})
    with pytest.raises(PilotException, match="checksum verification failed for LFN=a.root") as caught:
        stage_in(site.job, context(site), CancelToken())
    assert caught.value.code == 1171 and (spec.status, spec.status_code) == ("failed", 1171)
    assert site.records[0].state == "AD_MISMATCH"


def test_the_log_of_a_job_whose_directory_is_gone_still_leaves(site: Site) -> None:
    site.workdir.rmdir()
    (site.home / "job.log.tgz").write_bytes(b"log")
    log = FileSpec(lfn="job.log.tgz", filetype="log")
    stage_out(site.job, [log], context(site, options={"output_dir": str(site.launch)}), CancelToken(), log=True)
    assert (site.launch / "job.log.tgz").read_bytes() == b"log"


# --- storage and keys -------------------------------------------------------------------------------------------------

STORE = {"name": "OS", "id": 5, "type": "OS_ES", "is_deterministic": True,
         "arprotocols": {"write_wan": [{"endpoint": "s3://h:1", "path": "/b/", "flavour": "S3", "id": 9}]},
         "rprotocols": {"9": {"settings": {"access_key": "pub", "secret_key": "priv", "is_secure": "true"}}}}


def test_keys_of_object_stores_travel_in_a_private_file_of_their_own_that_does_not_stay(site: Site) -> None:
    out = site.output("out.root", ddmendpoint="OS")
    line = "stat -c %a .stageout_keys.json > mode; cp .stageout_keys.json seen; ! grep -q hidden stageout_request.json"
    ctx = context(site, {"astorages": {"write_lan": ["OS"]}}, middleware=shell(line))
    ctx.storage = lambda names: {name: StorageData.from_raw(name, STORE) for name in names}
    ctx.key_pair = lambda public, private: (f"{public}-value", f"{private}-hidden")
    with pytest.raises(PilotException, match="exit code 0"):
        stage_out(site.job, [out], ctx, CancelToken(), log=False)
    assert (site.workdir / "mode").read_text() == "600\n"
    assert json.loads((site.workdir / "seen").read_text()) == {"pub": "pub-value", "priv": "priv-hidden"}
    assert not (site.workdir / ".stageout_keys.json").exists()


def test_secrets_of_queue_settings_and_of_signed_urls_do_not_stay_in_the_jobs_directory(site: Site) -> None:
    spec = site.input("a.root", surl="https://h/x?X-Amz-Signature=0123456789abcdef0123456789abcdef")
    copytools = {"mv": {"copy_in": "cp", "secret_key": "hush-hush-hush"}}
    ctx = context(site, {"copytools": copytools}, middleware=lambda task: MiddlewareCommand(
        ["/bin/bash", "-c", "cp stagein_request.json ../seen; exec \"$@\"", "x",
         *Experiment().middleware_command(task).argv]))
    stage_in(site.job, ctx, CancelToken())
    assert "hush-hush-hush" in (site.home / "seen").read_text(), "the script must have it"
    for path in site.workdir.iterdir():
        text = path.read_text(errors="replace")
        assert "hush-hush" not in text and "0123456789abcdef0123" not in text, path
    assert stat.S_IMODE((site.workdir / "stagein_request.json").stat().st_mode) == 0o600
    assert spec.status == "transferred"


def test_a_storage_that_is_not_known_is_an_error_only_when_it_is_asked_for(site: Site) -> None:
    def unknown(names: list[str]) -> dict[str, StorageData]:
        raise PilotException(f"unknown endpoint {names}", code=1133)

    ctx = context(site, {"astorages": {"write_lan": ["RSE"]}, "catchall": "mv_final_destination"})
    ctx.storage = unknown
    with pytest.raises(PilotException, match=r"unknown endpoint \['RSE'\]") as caught:
        stage_out(site.job, [site.output("out.root", ddmendpoint="RSE")], ctx, CancelToken(), log=False)
    assert caught.value.code == 1133
    site.input("in.root")
    stage_in(site.job, ctx, CancelToken())


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_transfer_raises_and_marks_its_files(site: Site) -> None:
    fifo = site.home / "started"
    os.mkfifo(fifo)
    spec = site.input("a.root")
    (site.workdir / "a.root.part").write_bytes(b"half")
    token = CancelToken()
    threading.Thread(target=lambda: (fifo.read_text(), token.cancel(1201, "enough")), daemon=True).start()
    with pytest.raises(CancelledError, match="enough"):
        stage_in(site.job, context(site, middleware=shell(f"trap '' TERM; echo > {fifo}; sleep 3600")), token)
    assert (spec.status, spec.status_code) == ("failed", 1201)
    assert not (site.workdir / "a.root.part").exists()


def pythons(*, old: bool) -> list[str]:
    """Interpreters of this machine: those that the pilot knows, or older ones."""
    found = [Path(f"/usr/bin/python3.{minor}") for minor in range(4, 20)]
    found += [path / f"bin/python{path.name.rpartition('.')[0]}" for path in
              sorted((Path.home() / ".pyenv/versions").glob("3.*.*"))]
    return [str(path) for path in found if path.is_file() and (int(path.name.rpartition(".")[2]) < 9) is old]


@pytest.mark.parametrize("python", pythons(old=False))
def test_the_script_runs_on_a_bare_python_of_another_version(site: Site, python: str) -> None:
    site.input("a.root", b"abc")
    command: Middleware = lambda task: MiddlewareCommand(  # noqa: E731
        [python, "-S", "-s", "-E", str(task.workdir / task.script), *task.options])
    stage_in(site.job, context(site, middleware=command), CancelToken())
    assert (site.workdir / "a.root").read_bytes() == b"abc"
    assert python in (site.workdir / "stageinlog.txt").read_text()


@pytest.mark.skipif(not pythons(old=True), reason="no Python before 3.9 here")
def test_a_python_that_is_too_old_is_named(site: Site) -> None:
    site.input("a.root")
    command: Middleware = lambda task: MiddlewareCommand(  # noqa: E731
        [pythons(old=True)[0], str(task.workdir / task.script), *task.options])
    with pytest.raises(PilotException, match=r"stagein\.py: needs Python 3\.9 or newer, this is 3\.[4-8]"):
        stage_in(site.job, context(site, middleware=command), CancelToken())
