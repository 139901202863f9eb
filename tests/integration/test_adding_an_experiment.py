"""The example of the documentation: installed as a distribution, found by its entry point, run by a pilot."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from harness import ROOT, Farm
from looks import archive, ended_well

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = ROOT / "docs" / "adding-an-experiment.md"


def block(kind: str) -> str:
    """The first code block of this kind."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def install(site: Path) -> Path:
    """What pip does with the page's package: the module, and a dist-info directory with metadata and entry points."""
    project = tomllib.loads(block("toml"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [line for group, points in project["entry-points"].items()
             for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / "example_panda.py").write_text(block("python"), encoding="utf-8")
    return site


@pytest.fixture
def site(farm: Farm) -> Path:
    """The installed plug-in and the software of the experiment."""
    software = farm.directory / "sw" / "v1"
    software.mkdir(parents=True)
    (software / "setup.sh").write_text(
        "export EXAMPLE_READY=yes; example-check() { echo checked $2 > nodecheck.txt; }\n")
    return install(farm.directory / "site-packages")


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) <= 42


@pytest.mark.parametrize("spelling", ["example", "Example"])
def test_the_example_runs_a_job(farm: Farm, site: Path, spelling: str) -> None:
    job = farm.submit_job(
        "echo $EXAMPLE_READY $EXAMPLE_CORES $EXAMPLE_TASK > out.dat; echo x > rest.tmp\n"
        "echo '{\"runs\": [17], \"private\": 1}' > jobReport.json",
        outputs=["out.dat"], taskID=99, coreCount=1, swRelease="v1", maxDiskCount=100)
    pilot = ended_well(farm.run_pilot("--pilot-user", spelling, env={
        "PYTHONPATH": str(site), "EXAMPLE_SW": str(farm.directory / "sw")}))
    final = farm.final(job)
    assert final["state"] == "finished", final
    assert (farm.outputs / "out.dat").read_text() == "yes 1 99\n"
    assert json.loads(str(final["metaData"])) == {"runs": [17]}
    members = archive(farm.outputs / farm.server.job(job)["definition"]["logFile"])
    assert "rest.tmp" not in members and members["nodecheck.txt"] == b"checked 100\n"
    assert "setup.sh || exit 64;" in pilot.log


def test_the_example_refuses_jobs_without_a_task(farm: Farm, site: Path) -> None:
    job = farm.submit_job(swRelease="v1")
    ended_well(farm.run_pilot("--pilot-user", "example", env={"PYTHONPATH": str(site)}))
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["pilotErrorCode"]) == 1008
    assert "submit with a taskID" in final["pilotErrorDiag"]


def test_a_release_that_is_not_there_fails_the_job_in_the_payload(farm: Farm, site: Path) -> None:
    job = farm.submit_job(swRelease="v2", taskID=99)
    ended_well(farm.run_pilot("--pilot-user", "example", env={
        "PYTHONPATH": str(site), "EXAMPLE_SW": str(farm.directory / "sw")}))
    final = farm.final(job)
    assert final["state"] == "failed" and int(final["transExitCode"]) == 64


def test_an_experiment_that_is_not_installed_is_refused_with_the_known_ones(farm: Farm, site: Path) -> None:
    farm.submit_job()
    pilot = farm.run_pilot("--pilot-user", "exampel", env={"PYTHONPATH": str(site)})
    assert pilot.process.returncode == 65
    assert "no such experiment plug-in; known: atlas, darkside, eic, example, generic" in pilot.output
    assert "Traceback" not in pilot.output
