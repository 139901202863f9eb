"""CVMFS before the first job: pilots without ``-b`` against stand-in trees that are whole, broken, or hang."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Iterator, List

import pytest
from deadmount import DeadMount
from harness import Farm, Pilot

TREE = Path(__file__).resolve().parents[1] / "standins/cvmfs"
STAMP = "sft.cern.ch/lcg/lastUpdate"


@pytest.fixture
def tree(tmp_path: Path, farm: Farm) -> Path:
    farm.set_queue(is_cvmfs=True)
    copy = tmp_path / "cvmfs"
    shutil.copytree(TREE, copy)
    return copy


def atlas(farm: Farm, tree: Path, *options: str) -> List[str]:
    """The command line of an ATLAS pilot that looks at CVMFS."""
    return [word for word in farm.command("--pilot-user", "ATLAS", *options) if word != "-b"]


def run(farm: Farm, tree: Path, *options: str, **env: str) -> Pilot:
    pilot = farm.start(atlas(farm, tree, *options), env={"ATLAS_SW_BASE": str(tree), **env})
    pilot.wait()
    return pilot


def getjobs(farm: Farm) -> int:
    return sum("acquire_jobs" in request.path or "getJob" in request.path for request in farm.server.requests)


def test_a_healthy_cvmfs_is_not_in_the_way(farm: Farm, tree: Path) -> None:
    job = farm.submit_job()
    pilot = run(farm, tree)
    assert pilot.process.returncode == 0, pilot.output
    assert farm.final(job)
    assert f"CVMFS ({tree}) answers, last updated" in pilot.log


def test_no_cvmfs_ends_the_pilot_with_64_before_it_asks_for_a_job(farm: Farm, tree: Path) -> None:
    job = farm.submit_job()
    pilot = run(farm, tree / "nothing")
    assert pilot.process.returncode == 64, pilot.output
    assert farm.state(job) == "activated" and getjobs(farm) == 0
    assert "exit code=1377" in pilot.log
    assert "atlas.cern.ch/repo/sw: No such file or directory" in pilot.output and "-b skips this check" in pilot.output
    assert "cvmfs_config stat atlas.cern.ch: there is no such command here" in pilot.log


@pytest.mark.parametrize("missing", [
    "atlas.cern.ch/repo/sw", "atlas.cern.ch/repo/ATLASLocalRootBase/logDir/lastUpdate",
    "atlas-condb.cern.ch/repo/conditions/logDir/lastUpdate", "atlas-nightlies.cern.ch/repo/sw/logs/lastUpdate", STAMP,
    "unpacked.cern.ch/logDir/lastUpdate", "sft-nightlies.cern.ch/lcg/lastUpdate",
])
def test_each_repository_counts(farm: Farm, tree: Path, missing: str) -> None:
    (tree / missing).rename(tree / "away")
    pilot = run(farm, tree)
    assert pilot.process.returncode == 64, pilot.output
    assert f"{tree / missing}: No such file or directory" in pilot.output


@pytest.mark.parametrize("text", ["", "no bars at all\n", "a|b|-5|\n", "a|b|0|\n", "a|b|soon|\n", "\0\xff|a|"])
def test_a_stamp_that_says_no_time_is_no_sign_of_life(farm: Farm, tree: Path, text: str) -> None:
    (tree / STAMP).write_text(text)
    pilot = run(farm, tree)
    assert pilot.process.returncode == 64, pilot.output
    assert f"{tree / STAMP}: no time of the last update" in pilot.output


def test_an_old_stamp_is_good(farm: Farm, tree: Path) -> None:
    (tree / STAMP).write_text("x|y|1000000000|z\nanother line\n")
    assert run(farm, tree).process.returncode == 0


def test_diagnostics_of_the_node_go_into_the_log(farm: Farm, tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "unpacked.cern.ch")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cvmfs_config", "attr"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} says: $*"\nexit 3\n')
        (tools / name).chmod(0o755)
    pilot = run(farm, tree, PATH=f"{tools}:{farm.environment()['PATH']}")
    assert pilot.process.returncode == 64
    assert "cvmfs_config stat atlas.cern.ch: exit code 3: cvmfs_config says: stat atlas.cern.ch" in pilot.log
    assert f"exit code 3: attr says: -g revision {tree}/atlas.cern.ch" in pilot.log


@pytest.mark.parametrize("how", ["-b", "NO_CVMFS_OK", "queue", "experiment"])
def test_who_does_not_need_it_is_not_asked(farm: Farm, tree: Path, how: str) -> None:
    job = farm.submit_job()
    options = {"-b": ["-b"], "experiment": ["--pilot-user", "generic"]}.get(how, [])
    if how == "queue":
        farm.set_queue(is_cvmfs=False)
    pilot = run(farm, tree / "nothing", **({"NO_CVMFS_OK": ""} if how == "NO_CVMFS_OK" else {})) if not options else (
        farm.start([*atlas(farm, tree), *options], env={"ATLAS_SW_BASE": str(tree / "nothing")}))
    assert pilot.wait() == 0, pilot.output
    assert farm.final(job) and "CVMFS (" not in pilot.log


# --- a mount that hangs -----------------------------------------------------------------------------------------------


@pytest.fixture
def dead(tree: Path) -> Iterator[DeadMount]:
    place = tree / "unpacked.cern.ch/logDir"
    try:
        mount = DeadMount(place, 100)
    except PermissionError as exc:
        pytest.skip(f"no right to mount here: {exc}")
    yield mount
    mount.close()


def test_a_mount_that_hangs_ends_the_pilot_in_time(farm: Farm, tree: Path, dead: DeadMount) -> None:
    pilot = run(farm, tree, "--set", "limits.cvmfs_time=1")
    assert pilot.process.returncode == 64, pilot.output
    assert f"{tree}/unpacked.cern.ch/logDir/lastUpdate does not answer within 1 s: the mount hangs" in pilot.output


def test_a_signal_is_seen_while_cvmfs_hangs(farm: Farm, tree: Path, dead: DeadMount) -> None:
    pilot = farm.start(atlas(farm, tree), env={"ATLAS_SW_BASE": str(tree)})
    assert dead.reads.wait(60)
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    assert getjobs(farm) == 0


def test_check_shows_it(farm: Farm, tree: Path) -> None:
    good = farm.start([*atlas(farm, tree), "--check", "--json"], env={"ATLAS_SW_BASE": str(tree)})
    good.wait()
    (tree / STAMP).unlink()
    bad = farm.start([*atlas(farm, tree), "--check", "--json"], env={"ATLAS_SW_BASE": str(tree)})
    bad.wait()
    rows = [next(row for row in json.loads(pilot.output)["checks"] if row["name"] == "CVMFS") for pilot in (good, bad)]
    assert [row["status"] for row in rows] == ["ok", "FAIL"]
    assert rows[1]["code"] == 1377 and STAMP in rows[1]["found"] and rows[1]["cure"]
