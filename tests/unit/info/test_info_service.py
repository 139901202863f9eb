from __future__ import annotations

import json
import logging
import os
import threading
import time

import pytest

from pilot.common.exception import NotDefined, PilotException, QueuedataFailure, QueuedataNotOK
from pilot.info.config import SourceConfig, server_base
from pilot.info.infoservice import InfoService, JobInfoProvider
from pilot.info.job import Job
from pilot.info.sources import CacheFile
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.fetch import fetch

QUEUE = "LOCAL_TEST"


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def make_old(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def config(home, tmp_path):
    """Nothing anywhere: no CVMFS, no URL."""

    def build(**fields):
        return SourceConfig(
            cache_dir=home,
            local_dirs=(home, tmp_path / "launch", tmp_path / "work"),
            sw_base=str(tmp_path / "cvmfs"),
            retry_base=0.005,
            budget=fields.pop("budget", 3.0),
            timeout=fields.pop("timeout", 5.0),
            **fields,
        )

    return build


@pytest.fixture
def cvmfs(tmp_path):
    return tmp_path / "cvmfs/atlas.cern.ch/repo/sw/local/etc"


def panda(site, *answers):
    return site.on(f"/cache/schedconfig/{QUEUE}.all.json", *answers)


# --- pre-placed files ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", ["home", "launch", "work"])
def test_preplaced_file_wins_over_everything(config, site, tmp_path, local_queue, place):
    put(tmp_path / place / "queuedata.json", local_queue)
    url = panda(site, site.json({**local_queue, "maxwdir": 1}))
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).maxwdir == 20000
    assert site.hits == []


def test_preplaced_file_of_the_launch_dir_is_copied_one_key_per_line(config, home, tmp_path, local_queue):
    put(tmp_path / "launch/queuedata.json", local_queue)
    InfoService(config()).load_queue(QUEUE)
    lines = (home / "queuedata.json").read_text().splitlines()
    assert '    "catchall": "",' in lines
    assert json.loads((home / "queuedata.json").read_text()) == local_queue


def test_the_copy_does_not_hide_the_original_later(config, tmp_path, local_queue):
    original = put(tmp_path / "launch/queuedata.json", local_queue)
    InfoService(config()).load_queue(QUEUE)
    put(original, {**local_queue, "maxwdir": 5})
    assert InfoService(config()).load_queue(QUEUE).maxwdir == 5


def test_broken_preplaced_file_falls_to_the_next_source_with_a_reason(config, site, home, local_queue, caplog):
    put(home / "queuedata.json", '{"nickname": ')
    url = panda(site, site.json(local_queue))
    with caplog.at_level(logging.INFO):
        assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE
    reason = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("LOCAL"))
    assert "not JSON" in reason
    assert "\n" not in reason
    assert (home / "queuedata.json.rejected").read_text() == '{"nickname": '


def test_preplaced_file_of_another_queue_is_not_used(config, home, local_queue):
    put(home / "queuedata.json", {**local_queue, "nickname": "OTHER", "panda_resource": "OTHER"})
    with pytest.raises(QueuedataNotOK, match="describes queue OTHER, not LOCAL_TEST"):
        InfoService(config()).load_queue(QUEUE)


def test_name_of_the_copy_that_the_server_writes_is_accepted(config, home, local_queue):
    put(home / "queuedata.json", {**local_queue, "siteid": "ALIAS"})
    assert InfoService(config()).load_queue("ALIAS").name == QUEUE


# --- the server's copy -----------------------------------------------------------------------------------------------
def test_download_is_kept_pretty_printed(config, site, home, local_queue):
    url = panda(site, site.text(json.dumps(local_queue, separators=(",", ":"))))
    InfoService(config(queuedata_url=url)).load_queue(QUEUE)
    assert '    "container_type": "",' in (home / "queuedata.json").read_text().splitlines()


def test_fresh_download_is_used_by_the_next_pilot_without_asking(config, site, local_queue):
    url = panda(site, site.json(local_queue))
    InfoService(config(queuedata_url=url)).load_queue(QUEUE)
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE
    assert len(site.hits) == 1


def test_old_download_is_replaced(config, site, home, local_queue):
    url = panda(site, site.json(local_queue), site.json({**local_queue, "maxwdir": 7}))
    InfoService(config(queuedata_url=url)).load_queue(QUEUE)
    make_old(home / "queuedata.json", 3 * 3600 + 1)
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).maxwdir == 7


def test_download_from_another_url_is_not_mixed_up(config, site, local_queue):
    InfoService(config(queuedata_url=panda(site, site.json(local_queue)))).load_queue(QUEUE)
    other = site.on("/other", site.json({**local_queue, "maxwdir": 9}))
    assert InfoService(config(queuedata_option_url=other)).load_queue(QUEUE).maxwdir == 9


@pytest.mark.parametrize("failure", ["", " \n", "<html>login</html>", "[]", "{}", "null", '{"error": "x"}', '{"a": 1}'])
def test_bad_content_never_destroys_the_cache(config, site, home, local_queue, failure):
    url = panda(site, site.json(local_queue), site.text(failure))
    InfoService(config(queuedata_url=url)).load_queue(QUEUE)
    make_old(home / "queuedata.json", 10**6)
    before = (home / "queuedata.json").read_bytes()
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).maxwdir == 20000
    assert len(site.hits) == 2
    assert (home / "queuedata.json").read_bytes() == before


@pytest.mark.parametrize("behaviour", ["reset", "truncated"])
def test_broken_transfer_never_destroys_the_cache(config, site, home, local_queue, behaviour):
    url = panda(site, site.json(local_queue), getattr(site, behaviour))
    InfoService(config(queuedata_url=url)).load_queue(QUEUE)
    make_old(home / "queuedata.json", 10**6)
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE
    assert json.loads((home / "queuedata.json").read_text()) == local_queue
    assert [name for name in os.listdir(home) if name.endswith(".tmp")] == []


def test_broken_answers_are_asked_for_again(config, site, local_queue):
    url = panda(site, site.text("", 503), site.reset, site.json(local_queue))
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE
    assert len(site.hits) == 3


def test_what_does_not_go_away_is_not_asked_for_again(config, site, cvmfs, local_queue):
    url = panda(site, site.text("not found", 404))
    put(cvmfs / "cric_pandaqueues.json", {QUEUE: local_queue})
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE
    assert len(site.hits) == 1


def test_time_out_falls_to_the_next_source_at_once(config, site, cvmfs, local_queue):
    url = panda(site, site.hang)
    put(cvmfs / "cric_pandaqueues.json", {QUEUE: local_queue})
    assert InfoService(config(queuedata_url=url, timeout=0.2)).load_queue(QUEUE).name == QUEUE
    assert len(site.hits) == 1


def test_server_that_comes_back_within_the_budget(config, site, local_queue):
    answers = [site.text("", 502)] * 7 + [site.json(local_queue)]
    url = panda(site, *answers)
    assert InfoService(config(queuedata_url=url, budget=60.0)).load_queue(QUEUE).name == QUEUE
    assert len(site.hits) == 8


def test_budget_ends_the_retries_and_all_reasons_are_told(config, site, closed_port):
    url = panda(site, site.text("", 500))
    cric = f"http://127.0.0.1:{closed_port}/cric.json"
    with pytest.raises(QueuedataFailure, match="wrong PandaQueue name") as caught:
        InfoService(config(queuedata_url=url, queues_url=cric, budget=0.2)).load_queue(QUEUE)
    detail = caught.value.detail
    for reason in ("LOCAL: no queuedata.json was pre-placed", "HTTP 500", "CVMFS: ", "no such file", "refused"):
        assert reason in detail
    assert "\n" not in detail
    assert caught.value.code == 1116


def test_malformed_data_is_told_from_missing_data(config, site):
    with pytest.raises(QueuedataNotOK) as caught:
        InfoService(config(queuedata_url=panda(site, site.text("<html>")))).load_queue(QUEUE)
    assert caught.value.code == 1117
    assert 'starts with "<html>"' in caught.value.detail


def test_cancel_interrupts_the_waits(config, site):
    token = CancelToken()

    def stop(handler):
        site.text("", 503)(handler)
        token.cancel(1201, "SIGTERM")

    with pytest.raises(CancelledError):
        InfoService(config(queuedata_url=panda(site, stop), budget=1000.0), token=token).load_queue(QUEUE)


def test_user_agent_comes_with_the_fetcher(config, site, local_queue):
    def fetcher(url, *, timeout, token):
        return fetch(url, timeout=timeout, token=token, headers={"User-Agent": "pilot/2.13"})

    InfoService(config(queuedata_url=panda(site, site.json(local_queue))), fetcher=fetcher).load_queue(QUEUE)
    assert site.agents == ["pilot/2.13"]


def test_empty_queue_name_is_refused(config):
    with pytest.raises(PilotException, match="panda queue name is not set"):
        InfoService(config()).load_queue("")


def test_use_before_load_is_refused(config):
    with pytest.raises(PilotException, match="instance is not initialized"):
        _ = InfoService(config()).queuedata


def test_unwritable_work_directory_does_not_matter(config, site, home, local_queue):
    (home / ".queuedata.json.origin").mkdir()
    url = panda(site, site.json(local_queue))
    assert InfoService(config(queuedata_url=url)).load_queue(QUEUE).name == QUEUE


# --- the option and --url --------------------------------------------------------------------------------------------
def test_option_may_be_a_file_that_is_edited(config, tmp_path, local_queue):
    path = put(tmp_path / f"{QUEUE}.json", local_queue)
    option = config(queuedata_option_url=f"{tmp_path}/{{pandaqueue}}.json")
    assert InfoService(option).load_queue(QUEUE).maxwdir == 20000
    put(path, {**local_queue, "maxwdir": 3})
    assert InfoService(option).load_queue(QUEUE).maxwdir == 3


def test_option_may_be_a_file_url(config, tmp_path, local_queue):
    path = put(tmp_path / "q.json", local_queue)
    assert InfoService(config(queuedata_option_url=f"file://{path}")).load_queue(QUEUE).name == QUEUE


def test_option_replaces_the_other_server_urls(config, site):
    option = config(queuedata_option_url=f"{site.url}/a", server_base=site.url, queuedata_url=f"{site.url}/b")
    with pytest.raises(QueuedataFailure):
        InfoService(option).load_queue(QUEUE)
    assert site.hits == ["/a"]


def test_server_of_the_url_option_is_asked_before_the_configured_one(config, site, local_queue):
    url = site.on("/configured", site.json(local_queue))
    InfoService(config(server_base=site.url, queuedata_url=url)).load_queue(QUEUE)
    assert site.hits == [f"/cache/schedconfig/{QUEUE}.all.json", "/configured"]


@pytest.mark.parametrize(
    ("url", "base"),
    [("panda.example.org", "https://panda.example.org:25443"), ("http://h:25080/server/panda", "http://h:25080"),
     ("https://gate/vo1/", "https://gate:25443/vo1"), ("https://[::1]", "https://[::1]:25443")],
)  # fmt: skip
def test_server_base(url, base):
    assert server_base(url, 25443) == base


@pytest.mark.parametrize("url", ["https://", "host:port", "http://[::1"])
def test_server_url_that_is_none(url):
    with pytest.raises(PilotException, match="is no server URL"):
        server_base(url, 25443)


# --- CVMFS and CRIC --------------------------------------------------------------------------------------------------
def test_source_without_the_queue_falls_to_the_next(config, site, cvmfs, grid_queue, local_queue):
    put(cvmfs / "cric_pandaqueues.json", {"EXAMPLE-T2_UCORE": grid_queue})
    cric = site.on("/cric", site.json({QUEUE: local_queue}))
    assert InfoService(config(queues_url=cric)).load_queue(QUEUE).name == QUEUE


def test_failure_of_a_flat_source_does_not_leak_its_form_into_the_map(config, site, home, cvmfs, local_queue):
    put(home / "queuedata.json", "garbage")
    put(cvmfs / "cric_pandaqueues.json", {QUEUE: local_queue, "B": {"nickname": "B"}})
    assert InfoService(config(queuedata_url=panda(site, site.text("garbage")))).load_queue(QUEUE).name == QUEUE


def test_queue_that_nobody_knows(config, cvmfs, grid_queue):
    put(cvmfs / "cric_pandaqueues.json", {"EXAMPLE-T2_UCORE": grid_queue})
    with pytest.raises(QueuedataFailure, match="has no queue LOCAL_TEST"):
        InfoService(config()).load_queue(QUEUE)


def test_cache_files_have_the_documented_names(config, site, home, cvmfs, local_queue):
    put(cvmfs / "cric_pandaqueues.json", {"X": {"nickname": "X"}, "Y": {"nickname": "Y"}})
    cric = site.on("/cric", site.json({QUEUE: local_queue}))
    InfoService(config(queues_url=cric)).load_queue(QUEUE)
    assert (home / f"agis_schedconf.agis.{QUEUE}.json").exists()
    put(cvmfs / "cric_pandaqueues.json", {"X": {"nickname": "X", "state": "ACTIVE", "copytools": {"mv": {}}}})
    InfoService(config()).load_queue("X")
    assert (home / "agis_schedconf.cvmfs.json").exists()


def test_cvmfs_copy_is_used_when_cvmfs_is_gone(config, cvmfs, home, local_queue):
    path = put(cvmfs / "cric_pandaqueues.json", {QUEUE: local_queue})
    InfoService(config()).load_queue(QUEUE)
    path.unlink()
    make_old(home / "agis_schedconf.cvmfs.json", 10**6)
    assert InfoService(config()).load_queue(QUEUE).name == QUEUE


def test_hung_cvmfs_does_not_hang_the_pilot(config, site, cvmfs, local_queue):
    cvmfs.mkdir(parents=True)
    os.mkfifo(cvmfs / "cric_pandaqueues.json")
    cric = site.on("/cric", site.json({QUEUE: local_queue}))
    assert InfoService(config(queues_url=cric, timeout=0.3)).load_queue(QUEUE).name == QUEUE
    with open(cvmfs / "cric_pandaqueues.json", "wb"):
        pass


def test_complete_record_needs_no_base_layer(config, site, local_queue):
    cric = site.on("/cric", site.json({QUEUE: local_queue}))
    InfoService(config(queuedata_url=panda(site, site.json(local_queue)), queues_url=cric)).load_queue(QUEUE)
    assert "/cric" not in site.hits


def test_partial_record_is_laid_over_the_base(config, home, cvmfs, local_queue):
    put(home / "queuedata.json", {"nickname": QUEUE, "maxwdir": 1, "params": {"b": 2}})
    put(cvmfs / "cric_pandaqueues.json", {QUEUE: {**local_queue, "params": {"a": 1}}})
    queue = InfoService(config()).load_queue(QUEUE)
    assert (queue.maxwdir, queue.maxrss, queue.params) == (1, 2000, {"a": 1, "b": 2})


def test_local_schedconfig_file_is_a_base_layer(config, home, tmp_path, local_queue):
    put(home / "queuedata.json", local_queue)
    conf = put(tmp_path / "schedconf.json", {QUEUE: {**local_queue, "maxwdir": 1, "appdir": "/sw"}})
    queue = InfoService(config(local_schedconf=str(conf))).load_queue(QUEUE)
    assert (queue.maxwdir, queue.appdir) == (20000, "/sw")


def test_schedconfig_alone_is_enough(config, home, local_queue):
    put(home / "cric_pandaqueues.json", {QUEUE: local_queue})
    assert InfoService(config()).load_queue(QUEUE).maxwdir == 20000


# --- refresh ---------------------------------------------------------------------------------------------------------
def test_young_description_is_not_refreshed(config, site, local_queue):
    service = InfoService(config(queuedata_url=panda(site, site.json(local_queue))))
    first = service.load_queue(QUEUE)
    assert service.refresh_if_stale() is first
    assert len(site.hits) == 1


def test_stale_description_is_refreshed_and_an_offline_queue_is_seen(config, site, home, local_queue):
    url = panda(site, site.json(local_queue), site.json({**local_queue, "status": "offline"}))
    service = InfoService(config(queuedata_url=url))
    assert service.load_queue(QUEUE).refusal() is None
    make_old(home / "queuedata.json", 3 * 3600 + 1)
    assert service.refresh_if_stale().refusal()[0] == 1386
    assert service.queuedata.status == "offline"


def test_failed_refresh_keeps_the_old_description(config, site, home, local_queue):
    url = panda(site, site.json(local_queue), site.text("", 404))
    service = InfoService(config(queuedata_url=url))
    service.load_queue(QUEUE)
    (home / "queuedata.json").unlink()
    assert service.refresh_if_stale().name == QUEUE
    assert len(site.hits) == 2


def test_preplaced_file_is_never_replaced_but_read_again_when_edited(config, site, home, local_queue):
    path = put(home / "queuedata.json", local_queue)
    service = InfoService(config(queuedata_url=panda(site, site.json({**local_queue, "maxwdir": 1}))))
    service.load_queue(QUEUE)
    make_old(path, 10**6)
    assert service.refresh_if_stale().maxwdir == 20000
    put(path, {**local_queue, "state": "DISABLED"})
    assert service.refresh_if_stale().refusal()[0] == 1359
    assert site.hits == []


# --- overrides -------------------------------------------------------------------------------------------------------
@pytest.fixture
def service(config, home, local_queue):
    put(home / "queuedata.json", local_queue)
    made = InfoService(config())
    made.load_queue(QUEUE)
    return made


def test_job_overrides_use_external_names(service):
    job = Job("1", platform="x86_64-el9", overwrite_queuedata={"maxwdir": 30000, "timefloor": 2, "zip_time_gap": 5})
    queue = service.queue_for(job)
    assert (queue.maxwdir, queue.timefloor, queue.es_stageout_gap) == (30000, 120, 5)
    assert queue.platform == "x86_64-el9"
    assert service.queuedata.maxwdir == 20000


def test_job_overrides_are_merged_deeply_and_lists_replaced(service):
    queue = service.queue_for(Job("1", overwrite_queuedata={"acopytools": {"read_lan": ["xrdcp"]}}))
    assert queue.copytools_for(["read_lan"]) == ["xrdcp"]
    assert queue.copytools_for(["write_lan"]) == ["mv"]


def test_explicit_cmtconfig_override_beats_the_platform(service):
    assert service.queue_for(Job("1", platform="a", overwrite_queuedata={"cmtconfig": "b"})).platform == "b"


def test_operator_beats_the_job(config, home, local_queue):
    put(home / "queuedata.json", local_queue)
    service = InfoService(config(acopytools={"read_lan": ["gfal"]}))
    assert service.load_queue(QUEUE).copytools_for(["read_lan"]) == ["gfal"]
    queue = service.queue_for(Job("1", overwrite_queuedata={"acopytools": {"read_lan": ["xrdcp"], "pl": ["lsm"]}}))
    assert queue.copytools_for(["read_lan"]) == ["gfal"]
    assert queue.copytools_for(["pl"]) == ["lsm"]


# --- storage ---------------------------------------------------------------------------------------------------------
def test_a_queue_without_endpoints_asks_nobody(config, site, home, local_queue):
    put(home / "queuedata.json", local_queue)
    service = InfoService(config(storages_url=f"{site.url}/ddm", queues_url=f"{site.url}/cric"))
    service.load_queue(QUEUE)
    service.queue_for(Job("1", platform="x"))
    service.refresh_if_stale()
    assert site.hits == []


def test_endpoints_are_parsed_once_and_shared(config, home, endpoints):
    put(home / "cric_ddmendpoints.json", endpoints)
    service = InfoService(config())
    first = service.storage(["EXAMPLE-T2_DATADISK"])
    assert list(first) == ["EXAMPLE-T2_DATADISK"]
    assert service.storage("EXAMPLE-T2_DATADISK")["EXAMPLE-T2_DATADISK"] is first["EXAMPLE-T2_DATADISK"]
    assert service.storage_for(Job("2"), ["EXAMPLE-T2_DATADISK"])["EXAMPLE-T2_DATADISK"] is first["EXAMPLE-T2_DATADISK"]
    assert set(service.storage()) == set(endpoints)


def test_endpoints_are_loaded_once_by_many_threads(config, site, endpoints):
    service = InfoService(config(storages_url=site.on("/ddm", site.json(endpoints))))
    threads = [threading.Thread(target=service.storage, args=(["EXAMPLE-T1_ES"],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.hits == ["/ddm"]


def test_user_source_is_asked_only_when_the_option_is_set(config, site, home, cvmfs, endpoints):
    put(cvmfs / "cric_ddmendpoints.json", endpoints)
    cric = site.on("/ddm", site.json(endpoints))
    InfoService(config(storages_url=cric)).storage()
    assert site.hits == []
    user = site.on("/user", site.json({"MINE": {"id": 5}}))
    assert InfoService(config(storages_url=cric, storages_option_url=user)).storage(["MINE"])["MINE"].pk == 5
    assert site.hits == ["/user"]
    assert (home / "agis_ddmendpoints.agis.ALL.json").exists()


def test_endpoint_that_a_source_lacks_is_looked_for_in_the_next(config, site, home, endpoints):
    put(home / "cric_ddmendpoints.json", {"EXAMPLE-T1_ES": {**endpoints["EXAMPLE-T1_ES"], "token": "local"}})
    service = InfoService(config(storages_url=site.on("/ddm", site.json(endpoints))))
    found = service.storage(["EXAMPLE-T1_ES", "EXAMPLE-T2_DATADISK"])
    assert found["EXAMPLE-T2_DATADISK"].pk == 301
    assert found["EXAMPLE-T1_ES"].token == "local"


def test_empty_local_file_is_no_data(config, site, home, endpoints):
    put(home / "cric_ddmendpoints.json", {})
    service = InfoService(config(storages_url=site.on("/ddm", site.json(endpoints))))
    assert "EXAMPLE-T1_ES" in service.storage(["EXAMPLE-T1_ES"])


def test_unknown_endpoint_is_told_with_reasons_and_asked_for_once(config, site, home, endpoints):
    put(home / "cric_ddmendpoints.json", {})
    service = InfoService(config(storages_url=site.on("/ddm", site.text("", 404))))
    text = r"Failed to load storage details for ddms=\['NOWHERE'\].*HTTP 404"
    with pytest.raises(PilotException, match=text) as caught:
        service.storage(["NOWHERE"])
    assert caught.value.code == 1133
    assert service.storage(["NOWHERE"], strict=False) == {}
    assert site.hits == ["/ddm"]


def test_unknown_endpoint_is_asked_for_again_after_a_while(config, site, endpoints, monkeypatch):
    monkeypatch.setattr("pilot.info.endpoints._ASK_AGAIN_AFTER", 0.0)
    service = InfoService(config(storages_url=site.on("/ddm", site.text("", 404), site.json(endpoints))))
    assert service.storage(["EXAMPLE-T1_ES"], strict=False) == {}
    assert list(service.storage(["EXAMPLE-T1_ES"])) == ["EXAMPLE-T1_ES"]


def test_cvmfs_copy_of_the_endpoints_is_not_taken_for_a_preplaced_file(config, home, cvmfs, endpoints):
    path = put(cvmfs / "cric_ddmendpoints.json", endpoints)
    InfoService(config()).storage()
    assert (home / "cric_ddmendpoints.json").exists()
    endpoints["EXAMPLE-T1_ES"]["token"] = "new"
    put(path, endpoints)
    make_old(home / "cric_ddmendpoints.json", 61)
    assert InfoService(config()).storage(["EXAMPLE-T1_ES"])["EXAMPLE-T1_ES"].token == "new"


def test_local_only_mode(config, site):
    service = InfoService(config(storages_url=site.on("/ddm", site.json({"A": {}})), storages_local_only=True))
    assert service.storage(["A"], strict=False) == {}
    assert site.hits == []


def test_storage_overrides_of_a_job(config, home, endpoints):
    put(home / "cric_ddmendpoints.json", endpoints)
    service = InfoService(config())
    protocols = {"read_lan": [{"endpoint": "file://localhost", "path": "/data"}]}
    job = Job("1", overwrite_storagedata={"EXAMPLE-T2_DATADISK": {"arprotocols": protocols}, "NEW": {"id": 7}})
    found = service.storage_for(job, ["EXAMPLE-T2_DATADISK", "NEW"])
    assert found["EXAMPLE-T2_DATADISK"].protocols_for(["read_lan"])[0]["endpoint"] == "file://localhost"
    assert found["EXAMPLE-T2_DATADISK"].protocols_for(["write_lan"])
    assert found["NEW"].pk == 7
    untouched = service.storage(["EXAMPLE-T2_DATADISK"])["EXAMPLE-T2_DATADISK"]
    assert untouched.protocols_for(["read_lan"])[0]["endpoint"].startswith("root://")


def test_storage_ids(config, home, endpoints):
    put(home / "cric_ddmendpoints.json", endpoints)
    service = InfoService(config())
    assert service.get_storage_id("EXAMPLE-T1_ES") == 412
    assert service.get_ddmendpoint("412") == service.get_ddmendpoint(9041) == "EXAMPLE-T1_ES"
    for call, argument in ((service.get_storage_id, "X"), (service.get_ddmendpoint, 1), (service.get_ddmendpoint, "x")):
        with pytest.raises(NotDefined) as caught:
            call(argument)
        assert caught.value.code == 1311


# --- the interface that scripts and Harvester know -------------------------------------------------------------------
def test_job_level_service_shares_what_is_loaded(config, home, site, local_queue, endpoints):
    put(home / "queuedata.json", local_queue)
    infosys = InfoService(config(storages_url=site.on("/ddm", site.json(endpoints))))
    infosys.init(QUEUE)
    infosys.storage()
    job = Job("1", overwrite_queuedata={"maxwdir": 1}, overwrite_storagedata={"EXAMPLE-T1_ES": {"token": "job"}})
    mine = InfoService()
    mine.init(QUEUE, infosys.confinfo, infosys.extinfo, JobInfoProvider(job))
    assert mine.queuedata.maxwdir == 1
    assert infosys.queuedata.maxwdir == 20000
    assert mine.resolve_storage_data("EXAMPLE-T1_ES")["EXAMPLE-T1_ES"].token == "job"
    assert infosys.storages_info["EXAMPLE-T1_ES"].token == ""
    assert site.hits == ["/ddm"]


def test_other_queues_can_be_looked_up_without_touching_the_own(config, home, cvmfs, local_queue, grid_queue):
    put(cvmfs / "cric_pandaqueues.json", {"EXAMPLE-T2_UCORE": grid_queue, QUEUE: local_queue})
    service = InfoService(config())
    service.load_queue(QUEUE)
    assert service.resolve_queuedata("EXAMPLE-T2_UCORE").maxwdir == 120000
    assert service.resolve_queuedata("NONE") is None
    assert set(service.queues_info) == {QUEUE, "EXAMPLE-T2_UCORE"}
    assert json.loads((home / "queuedata.json").read_text())["nickname"] == QUEUE
    assert service.queuedata.name == QUEUE


def test_public_names():
    from pilot.info import FileSpec, JobData, QueueData, StorageData, infosys
    from pilot.info import InfoService as public
    from pilot.info import JobInfoProvider as provider

    assert public is InfoService and provider is JobInfoProvider
    assert isinstance(infosys, InfoService)
    assert JobData is Job
    assert all(item.__name__ for item in (FileSpec, QueueData, StorageData))


# --- configuration ---------------------------------------------------------------------------------------------------
def test_configuration_from_settings_options_and_environment(tmp_path):
    from pilot.options import parse_command_line
    from pilot.settings import default_settings

    options = parse_command_line(
        ["--pilot-user", "generic", "-q", "Q", "--url", "https://panda.example.org", "-p", "443",
         "--queuedata-url", "sub/q.json"]
    )  # fmt: skip
    environ = {"ATLAS_SW_BASE": "/my/cvmfs", "PILOT_WORK_DIR": "/w", "LOCAL_AGIS_SCHEDCONF": "/s.json"}
    made = SourceConfig.from_settings(
        default_settings(), options=options, environ=environ, pilot_home=tmp_path / "h", launch_dir=tmp_path / "l"
    )
    assert made.cache_dir == tmp_path / "h"
    assert [str(path) for path in made.local_dirs[1:]] == [str(tmp_path / "h"), str(tmp_path / "l"), "/w"]
    assert made.queuedata_urls("Q") == (str(tmp_path / "l/sub/q.json"),)
    assert made.server_base == "https://panda.example.org:443"
    assert made.local_schedconf == "/s.json"
    etc = "/my/cvmfs/atlas.cern.ch/repo/sw/local/etc"
    assert made.expand_cvmfs(made.storages_cvmfs, "x") == f"{etc}/cric_ddmendpoints.json"
    assert made.expand_cvmfs("", "d.json") == f"{etc}/d.json"


def test_queue_name_is_escaped_in_urls_only():
    assert SourceConfig.fill("http://h/{pandaqueue}.json", "a b/c") == "http://h/a%20b%2Fc.json"
    assert SourceConfig.fill("/d/{pandaqueue}.json", "a b") == "/d/a b.json"


# --- cache files -----------------------------------------------------------------------------------------------------
def test_own_download_is_told_from_an_edited_file(home):
    cache = CacheFile(home / "queuedata.json", shared=True)
    cache.write(b"one", "http://x")
    assert cache.origin() == "http://x"
    cache.path.write_bytes(b"edited")
    assert cache.origin() is None
    assert not cache.belongs_to(["http://x"])


def test_crash_between_note_and_content_leaves_the_old_content_known(home):
    cache = CacheFile(home / "queuedata.json", shared=True)
    cache.write(b"one", "http://x")
    cache.write(b"two", "http://x")
    cache.path.write_bytes(b"one")  # as if the second replacement had not happened
    assert cache.origin() == "http://x"


def test_time_in_the_future_counts_as_expired(home):
    cache = CacheFile(home / "c.json")
    cache.write(b"{}", "u")
    make_old(cache.path, -10000)
    assert cache.age() == float("inf")
