"""A job file is taken exactly once, after it was validated and a copy is safe."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from jobdef_examples import JOBS, as_form, example

from pilot.info.jobfile import JobFileRefused, find_job_file, take_job
from pilot.info.jobparser import parse_job


@dataclass
class Options:
    harvester_datadir: str = ""
    harvester_workdir: str = ""


@pytest.fixture
def places(tmp_path):
    """One directory per place that is searched."""
    for name in ("top/launch", "data", "work", "env_work", "hpc"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def take(path: Path, home: Path, **keywords):
    return take_job(path, harvester_or_pod=keywords.get("json_form", False), pilot_home=home)


def test_search_follows_the_order_of_the_places(places):
    launch = places / "top/launch"
    environ = {"PILOT_WORK_DIR": str(places / "env_work"), "HARVESTER_WORKDIR": str(places / "hpc")}
    options = Options(harvester_workdir=str(places / "work"))
    order = [
        places / "top/pandaJobData.out",
        launch / "pandaJobData.out",
        places / "env_work/pandaJobData.out",
        places / "work/HPCJobs.json",
        places / "hpc/HPCJobs.json",
    ]
    for path in order:
        path.write_text("x")
    for path in order:
        assert find_job_file(options, launch, environ) == path
        path.unlink()
    assert find_job_file(options, launch, environ) is None


def test_with_a_data_directory_no_other_place_is_searched_for_the_data_file(places):
    launch = places / "top/launch"
    (launch / "pandaJobData.out").write_text("x")
    options = Options(harvester_datadir=str(places / "data"), harvester_workdir=str(places / "work"))
    assert find_job_file(options, launch, {}) is None
    (places / "work/HPCJobs.json").write_text("x")
    assert find_job_file(options, launch, {}) == places / "work/HPCJobs.json"
    (places / "data/pandaJobData.out").write_text("x")
    assert find_job_file(options, launch, {}) == places / "data/pandaJobData.out"


@pytest.mark.parametrize("name", ["echo.json", "echo_form.txt", "echo_harvester.json"])
def test_every_form_is_taken_and_the_file_is_gone(tmp_path, name):
    path = tmp_path / "pandaJobData.out"
    path.write_bytes((JOBS / name).read_bytes())
    (raw,) = take(path, tmp_path)
    assert parse_job(raw).jobid == "7000000001"
    assert parse_job(raw).defects == []
    assert not path.exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["job_definition.json"]


def test_copy_is_complete_and_private(tmp_path):
    path = tmp_path / "HPCJobs.json"
    raw = example("echo", secrets='{"a": "swordfish"}')
    path.write_text(json.dumps({"7000000001": raw}))
    home = tmp_path / "home"
    home.mkdir()
    (home / "job_definition.json").write_text("old")
    take(path, home, json_form=True)
    copy = home / "job_definition.json"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    (kept,) = json.loads(copy.read_text()).values()
    assert {key: kept[key] for key in raw} == raw


def test_all_jobs_of_a_file_are_returned_in_their_order(tmp_path):
    path = tmp_path / "HPCJobs.json"
    path.write_text(json.dumps({str(job["PandaID"]): job for job in (example("production"), example("echo"))}))
    assert [parse_job(raw).jobid for raw in take(path, tmp_path)] == ["7000000002", "7000000001"]


def test_second_copy_in_the_home_is_removed(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for path in (home / "pandaJobData.out", tmp_path / "pandaJobData.out"):
        path.write_text(as_form(example("echo")))
    assert len(take(tmp_path / "pandaJobData.out", home)) == 1
    assert not (home / "pandaJobData.out").exists()


@pytest.mark.parametrize("content", ["", "  \n\t\n"])
def test_empty_file_is_fatal_and_stays(tmp_path, content):
    path = tmp_path / "pandaJobData.out"
    path.write_text(content)
    with pytest.raises(JobFileRefused, match="is empty") as caught:
        take(path, tmp_path)
    assert caught.value.code == 1302
    assert path.exists()


@pytest.mark.parametrize(
    "content", [b"\x00\xff\x80", b"{", b"hello", b"StatusCode=20", b'{"1": 2}', b'{"0": {}}', b"[" * 9999]
)
def test_garbage_is_refused_and_set_aside(tmp_path, content):
    path = tmp_path / "pandaJobData.out"
    path.write_bytes(content)
    with pytest.raises(JobFileRefused, match="refused") as caught:
        take(path, tmp_path)
    assert caught.value.code == 1302
    assert [item.name for item in tmp_path.iterdir()] == ["pandaJobData.out.refused"]
    assert (tmp_path / "pandaJobData.out.refused").read_bytes() == content


def test_nesting_that_could_not_be_copied_is_refused(tmp_path):
    path = tmp_path / "pandaJobData.out"
    depth = 900
    path.write_text('{"PandaID": 1, "x": ' + "[" * depth + "]" * depth + "}")
    try:
        assert len(take(path, tmp_path)) == 1
    except JobFileRefused as exc:
        assert "nested too deeply" in exc.detail


def test_bad_entries_do_not_stop_the_good_ones(tmp_path, caplog):
    path = tmp_path / "HPCJobs.json"
    path.write_text(json.dumps([example("echo"), {"PandaID": "x"}, example("echo"), example("production")]))
    assert [raw["PandaID"] for raw in take(path, tmp_path)] == [7000000001, 7000000002]
    assert "entry 2 of the job file is refused: PandaID is 'x'" in caplog.text
    assert "entry 3 of the job file is refused: job 7000000001 is in it twice" in caplog.text
    assert not path.exists() and (tmp_path / "HPCJobs.json.refused").exists()


def test_file_that_cannot_be_read_is_a_clear_error(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "missing", tmp_path, fifo, tmp_path / "link"):
        with pytest.raises(JobFileRefused) as caught:
            take(path, tmp_path)
        assert caught.value.code == 1303 and str(path) in caught.value.detail


def test_file_stays_when_no_copy_can_be_written(tmp_path):
    path = tmp_path / "pandaJobData.out"
    path.write_text(as_form(example("echo")))
    with pytest.raises(JobFileRefused, match="left where it is") as caught:
        take(path, tmp_path / "no" / "home")
    assert caught.value.code == 1303 and path.exists()


def test_bytes_that_are_not_utf8_survive_the_copy(tmp_path):
    path = tmp_path / "pandaJobData.out"
    path.write_bytes(b"PandaID=5&transformation=x&jobPars=caf\xe9&prodUserID=%E9")
    (raw,) = take(path, tmp_path)
    assert [text.split()[0] for _, text in parse_job(raw).defects] == ["prodUserID", "jobPars"]
    assert json.loads((tmp_path / "job_definition.json").read_text())["5"]["jobPars"] == "caf\udce9"


def test_of_many_pilots_exactly_one_gets_the_job(tmp_path):
    for _ in range(20):
        path = tmp_path / "pandaJobData.out"
        path.write_text(as_form(example("echo")))
        homes = [tmp_path / f"home{number}" for number in range(8)]
        start = threading.Barrier(len(homes))
        taken, refused = [], []

        def pilot(home, path=path, start=start, taken=taken, refused=refused):
            home.mkdir(exist_ok=True)
            start.wait()
            try:
                taken.append(take(path, home))
            except JobFileRefused as exc:
                refused.append(exc)

        threads = [threading.Thread(target=pilot, args=(home,)) for home in homes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1 and len(refused) == len(homes) - 1
